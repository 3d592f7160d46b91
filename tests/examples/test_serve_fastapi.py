"""The example of a server: what it answers is what `jboost.boost` gives, and it has limits."""

from __future__ import annotations

import importlib.util
import io
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import jboost

pytest.importorskip("fastapi", reason="pip install fastapi httpx")
pytest.importorskip("httpx", reason="pip install fastapi httpx")
from fastapi.testclient import TestClient

FILE = Path(__file__).parent.parent.parent / "examples" / "serve_fastapi.py"
TOKEN = {"Authorization": "Bearer secret"}


@pytest.fixture(scope="module")
def serve():
    spec = importlib.util.spec_from_file_location("serve_fastapi", FILE)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def client(serve, bundle) -> TestClient:
    with jboost.load(bundle, engine="eager", device="cpu", batch_size=4) as booster:
        yield TestClient(serve.create_app(booster, token="secret", most_bytes=100_000, most_images=20))


def body(*arrays: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.savez(file, *arrays)
    return file.getvalue()


def test_many_requests_at_once_get_what_boost_gives(client, bundle, images, labels) -> None:
    parts = [slice(0, 5), slice(5, 6), slice(6, 18), slice(18, 23)]

    def ask(part: slice) -> dict[str, np.ndarray]:
        answer = client.post("/boost", content=body(images[part], labels[part]), headers=TOKEN)
        assert answer.status_code == 200, answer.text
        return dict(np.load(io.BytesIO(answer.content)))

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(ask, parts))
    with jboost.load(bundle, engine="eager", device="cpu", batch_size=4) as booster:
        for part, answer in zip(parts, answers, strict=True):
            np.testing.assert_array_equal(answer["arr_0"], booster.boost(images[part], labels[part]).images)
            np.testing.assert_array_equal(answer["arr_1"], labels[part])
    assert "jboost_images_total 23\njboost_requests_total 4\n" in client.get("/metrics").text
    assert client.get("/health").json() == {"status": "ok", "engine": "eager", "device": "cpu"}


def test_what_cannot_be_used_is_refused(client, images, labels) -> None:
    def code(content: bytes, headers: dict[str, str] = TOKEN) -> int:
        return client.post("/boost", content=content, headers=headers).status_code

    assert code(body(images[:1]), {}) == 401
    assert code(body(images[:1]), {"Authorization": "Bearer wrong"}) == 401
    assert code(b"no npz") == 422
    assert code(body(images[:1, :8, :8])) == 422  # another size
    assert code(body(images[:1], labels[:1] + 99)) == 422  # no such class
    assert code(body(images)) == 413  # more than 20 images
    assert code(bytes(100_001)) == 413
    assert code(body(images[:1])) == 200  # it goes on


def test_a_full_queue_is_429(serve, bundle, images, monkeypatch) -> None:
    go = threading.Event()

    def slow(runner, sets, settings, *, batch_size):
        go.wait(60)
        yield from original(runner, sets, settings, batch_size=batch_size)

    original = serve.run_sets
    monkeypatch.setattr(serve, "run_sets", slow)
    with jboost.load(bundle, engine="eager", device="cpu", batch_size=4) as booster, ThreadPoolExecutor(1) as pool:
        client = TestClient(serve.create_app(booster, token="secret", most_waiting=1))
        first = pool.submit(client.post, "/boost", content=body(images[:1]), headers=TOKEN)
        while "jboost_waiting 1" not in client.get("/metrics").text:
            pass
        refused = client.post("/boost", content=body(images[:1]), headers=TOKEN)
        go.set()
        assert refused.status_code == 429
        assert refused.headers["Retry-After"] == "5"
        assert first.result(60).status_code == 200


def test_a_client_that_goes_away_takes_nobody_along(serve, bundle, images, monkeypatch) -> None:
    entered = []

    def watched(runner, sets, settings, *, batch_size):
        for work in original(runner, sets, settings, batch_size=batch_size):
            entered.append(work.key.cancel())
            yield work

    original = serve.run_sets
    monkeypatch.setattr(serve, "run_sets", watched)
    with jboost.load(bundle, engine="eager", device="cpu", batch_size=4) as booster:
        with TestClient(serve.create_app(booster, token="secret")) as client:
            for _ in range(2):
                assert client.post("/boost", content=body(images[:1]), headers=TOKEN).status_code == 200
            assert entered == [False, False]
        # The server has ended: the loop too.
        assert client.get("/health").status_code == 503
        with pytest.raises(ValueError, match="JBOOST_TOKEN"):
            serve.create_app(booster, token="")
