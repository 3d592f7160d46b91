"""Boost images over HTTP: post an npz, get an npz. An example to copy, not a product.

    pip install fastapi uvicorn
    export JBOOST_BUNDLE=bundle JBOOST_TOKEN=...    # any long random text
    uvicorn --app-dir examples --factory serve_fastapi:from_environment
    curl -f -H "Authorization: Bearer $JBOOST_TOKEN" --data-binary @samples.npz localhost:8000/boost -o boosted.npz

The images of all requests share one flight, so no slot stays empty while there is work. A request's images are those that
`jboost boost` gives for its file; other arrays of the file are left out. Put a proxy with TLS in front.
"""

import asyncio
import hmac
import io
import os
import queue
import tempfile
import threading
from collections import Counter
from collections.abc import AsyncIterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import FastAPI, HTTPException, Request, Response

import jboost
from jboost.engine.loop.sets import SetWork, run_sets
from jboost.engine.results.store import MemoryStore
from jboost.engine.samples import check_fit, labels_of, open_samples
from jboost.engine.samples.numbers import sample_numbers


def from_environment() -> FastAPI:
    """The application for uvicorn; without a token it does not start."""
    return create_app(jboost.load(os.environ["JBOOST_BUNDLE"]), token=os.environ["JBOOST_TOKEN"])


def create_app(
    booster: jboost.Booster, *, token: str, most_bytes: int = 64 << 20, most_images: int = 1024, most_waiting: int = 16
) -> FastAPI:
    """Serve a bundle.

    Args:
        booster: opened by `jboost.load`.
        token: what clients say after ``Authorization: Bearer``.
        most_bytes, most_images: of a request; larger ones get 413.
        most_waiting: requests that wait for slots, and as many whose bodies arrive; further ones get 429.

    Raises:
        ValueError: the token is empty.
    """
    if not token:
        raise ValueError("the token is empty; set JBOOST_TOKEN to a long random text")
    config, settings, counted = booster.bundle.config, booster.settings(), Counter[str]()
    resolution = config.resolutions[0]
    runner, batch_size, _ = booster.open_for(settings, resolution)
    waiting: queue.Queue[SetWork | None] = queue.Queue(most_waiting)
    # One thread parses all bodies: numpy's header parser is not safe under many threads in Python 3.11.
    parser = ThreadPoolExecutor(1)
    unanswered: set[Any] = set()  # futures
    lock = threading.Lock()  # of what follows and of `unanswered`
    ended = False

    def loop() -> None:
        nonlocal ended
        try:
            for work in run_sets(runner, iter(waiting.get, None), settings, batch_size=batch_size):
                counted["images"] += 0 if work.error else len(work.store.records)
                done: Future[None] = work.key  # type: ignore[assignment]
                with lock:
                    unanswered.discard(done)
                done.set_exception(work.error) if work.error else done.set_result(None)
        finally:  # the server ends, or the engine failed
            with lock:
                ended = True
                for done in unanswered:
                    done.set_exception(RuntimeError("the loop has ended"))

    loop_thread = threading.Thread(target=loop, daemon=True)
    loop_thread.start()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(waiting.put, None)  # what waits is boosted before the loop ends
        await asyncio.to_thread(loop_thread.join)

    app = FastAPI(title="jboost", lifespan=lifespan)

    def too_many() -> HTTPException:
        counted["refused"] += 1
        return HTTPException(429, "too many requests wait; try again later", {"Retry-After": "5"})

    def enter(work: SetWork) -> None:
        with lock:
            if ended:
                raise HTTPException(503, "the loop has ended; restart the server")
            try:
                waiting.put_nowait(work)  # the loop needs the lock before it answers
            except queue.Full as e:
                raise too_many() from e
            unanswered.add(work.key)

    async def body_of(request: Request) -> bytes:
        if waiting.full() or counted["arriving"] >= most_waiting:
            raise too_many()
        counted["arriving"] += 1
        try:
            body = bytearray()
            async for part in request.stream():
                body += part
                if len(body) > most_bytes:
                    raise HTTPException(413, f"at most {most_bytes:,} bytes a request")
            return bytes(body)
        finally:
            counted["arriving"] -= 1

    def parse(body: bytes) -> SetWork:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "request.npz")
            file.write_bytes(body)
            try:
                samples = open_samples(file)
                if samples.shape[0] > most_images:
                    raise HTTPException(413, f"at most {most_images} images a request")
                labels = labels_of(samples, class_names=config.class_names, num_classes=config.num_classes)
                sizes = {"num_classes": config.num_classes, "in_channels": config.in_channels}
                check_fit(labels, samples.shape, **sizes, resolutions=[resolution])
                images, numbers = samples.read(np.arange(samples.shape[0])), sample_numbers(samples)
            except jboost.BadInputError as e:
                raise HTTPException(422, str(e).replace(str(file), "the body")) from e
        store, done = MemoryStore(images.shape), Future[None]()
        done.set_running_or_notify_cancel()  # from now on a client that goes away cannot cancel it under the loop's hands
        return SetWork(done, lambda positions: images[positions], labels, numbers, store, images.shape[1:])

    def pack(work: SetWork) -> bytes:
        arrays = [work.store.images] if work.labels is None else [work.store.images, work.labels]  # type: ignore[attr-defined]
        file = io.BytesIO()
        np.savez(file, *arrays)
        return file.getvalue()

    @app.post("/boost")
    async def boost(request: Request) -> Response:
        given = request.headers.get("authorization", "").encode()
        if not hmac.compare_digest(given, f"Bearer {token}".encode()):
            raise HTTPException(401, "say Authorization: Bearer and the token")
        if not loop_thread.is_alive():
            raise HTTPException(503, "the loop has ended; restart the server")
        in_thread: Any = asyncio.get_running_loop().run_in_executor
        work = await in_thread(parser, parse, await body_of(request))
        enter(work)
        await asyncio.wrap_future(work.key)  # type: ignore[arg-type]
        counted["requests"] += 1
        return Response(await in_thread(parser, pack, work), media_type="application/octet-stream")

    @app.get("/health")
    async def health() -> dict[str, str]:
        if not loop_thread.is_alive():
            raise HTTPException(503, "the loop has ended; restart the server")
        return {"status": "ok", "engine": runner.name, "device": runner.device}

    @app.get("/metrics")
    async def metrics() -> Response:
        lines = [f"jboost_{name}_total {counted[name]}" for name in ("images", "requests", "refused")]
        return Response("\n".join([*lines, f"jboost_waiting {waiting.qsize()}", ""]), media_type="text/plain")

    return app
