"""Whatever happens to a byte of an unfinished run is noticed, or is of no consequence."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from partial_cases import SHAPE, begun, finish, images, open_store, put

from jboost.engine.errors import BadInputError, FailureError
from jboost.engine.results import partial
from jboost.engine.results.identity import FORMAT, digest, partial_folder

FILES = ("run.json", "records.bin", "images.u8", "step2/records.bin", "step2/images.u8")
DONE = 4


@pytest.fixture
def out(tmp_path) -> Path:
    begun(tmp_path / "out.npz", DONE)
    return tmp_path / "out.npz"


def redone(out: Path) -> int | None:
    """Resume: the images done again, None if the run was refused. The output is right in any case."""
    try:
        store = open_store(out)
    except BadInputError as e:
        said = str(e)
    else:
        count = store.redone
        finish(store)
        return count
    assert said.endswith(f"rm -r {partial_folder(out)}")
    assert "\n" not in said
    return None


def each(
    out: Path, file: str, monkeypatch: pytest.MonkeyPatch, changes: Callable[[bytes], list[tuple[object, bytes]]]
) -> dict[object, int | None]:
    """What becomes of the run for each change of a file (of which nothing need survive a power cut)."""
    monkeypatch.setattr(partial, "sync", lambda file: None)
    kept = out.with_name("kept")
    shutil.copytree(partial_folder(out), kept)
    found = {}
    for name, content in changes((kept / file).read_bytes()):
        shutil.rmtree(partial_folder(out))
        shutil.copytree(kept, partial_folder(out))
        (partial_folder(out) / file).write_bytes(content)
        found[name] = redone(out)
    return found


def test_what_is_whole_is_kept(out) -> None:
    store = open_store(out)
    assert (store.redone, store.records["done"].sum()) == (0, DONE)
    finish(store)
    store = open_store(out)
    assert (store.redone, store.records["done"].sum()) == (0, SHAPE[0])
    store.remove()
    assert list(out.parent.iterdir()) == []


@pytest.mark.parametrize("file", FILES)
def test_every_flipped_byte_is_noticed_or_harmless(out, file, monkeypatch) -> None:
    def flipped(content: bytes) -> list[tuple[object, bytes]]:
        flips = (1, 0xFF)
        return [
            ((at, flip), content[:at] + bytes([content[at] ^ flip]) + content[at + 1 :])
            for at in range(len(content))
            for flip in flips
        ]

    found = each(out, file, monkeypatch, flipped)
    per_image = {"records.bin": partial.STORED.itemsize, "images.u8": int(np.prod(SHAPE[1:]))}.get(Path(file).name)
    for (at, flip), count in found.items():
        if per_image is None:
            assert count in (None, 0), (at, flip)  # refused, or white space
        elif at // per_image < DONE:
            assert count == 1, (at, flip)
        else:  # an image that was not begun: pixels do not matter, a record without its check does
            assert count == (1 if file.endswith("records.bin") else 0), (at, flip)
    if per_image is None:
        assert sum(count is None for count in found.values()) > 0.8 * len(found)


@pytest.mark.parametrize("file", FILES)
def test_every_cut_is_noticed(out, file, monkeypatch) -> None:
    found = each(out, file, monkeypatch, lambda content: [(n, content[:n]) for n in range(len(content))])
    size = len(found)
    if file == "run.json":
        assert {n for n, count in found.items() if count is not None} <= {size - 1}  # the last line's end
    else:
        per_image = size // SHAPE[0]
        cut = {n: SHAPE[0] - n // per_image for n in found}
        if file.endswith("images.u8"):  # only what was done is missed
            cut = {n: max(0, DONE - n // per_image) for n in found}
        assert found == cut


@pytest.mark.parametrize("file", FILES)
def test_zeros_set_flags_and_appended_bytes_are_noticed(out, file, monkeypatch) -> None:
    def changed(content: bytes) -> list[tuple[object, bytes]]:
        return [("zeros", bytes(len(content))), ("ones", b"\x01" * len(content)), ("longer", content + b"\x01")]

    found = each(out, file, monkeypatch, changed)
    if file == "run.json":
        assert set(found.values()) == {None}
    else:
        assert found["longer"] == 0
        assert found["ones"] == (DONE if file.endswith("images.u8") else SHAPE[0])
        # Zeroed records are those of a run that has done nothing; beside whole ones of a snapshot, that is noticed or harmless.
        assert found["zeros"] in (0, DONE)
    content = (partial_folder(out) / "records.bin").read_bytes()
    done = np.frombuffer(content, partial.STORED).copy()
    done["done"] = True
    (partial_folder(out) / "records.bin").write_bytes(done.tobytes())
    redone(out)


def test_records_of_another_image_or_another_run_do_not_count(out, tmp_path) -> None:
    file = partial_folder(out) / "records.bin"
    rows = np.fromfile(file, partial.STORED)
    pixels = np.fromfile(partial_folder(out) / "images.u8", np.uint8).reshape(SHAPE)
    rows[[0, 1]], pixels[[0, 1]] = rows[[1, 0]], pixels[[1, 0]]  # whole, and in each other's place
    file.write_bytes(rows.tobytes())
    (partial_folder(out) / "images.u8").write_bytes(pixels.tobytes())
    assert redone(out) == 2
    # A run with another header leaves nothing that this one takes for its own.
    text = json.loads((partial_folder(out) / "run.json").read_text())
    assert partial.StoredSet(partial_folder(out), SHAPE, text["digest"]).records["done"].all()
    assert not partial.StoredSet(partial_folder(out), SHAPE, "0" * 64).records["done"].any()


def test_pixels_that_change_while_the_run_lasts_do_not_reach_the_output(out) -> None:
    store = open_store(out)
    put(store, np.arange(DONE, SHAPE[0]))
    store.commit()
    with (partial_folder(out) / "images.u8").open("r+b") as f:
        f.truncate(100)
    with pytest.raises(FailureError, match=r"image 5 .* --resume"):
        list(store.batches())
    store.close()
    assert redone(out) == 2


# --- files that are missing, foreign or old --------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", FILES)
def test_a_missing_file_is_refused_or_made_again(out, file) -> None:
    (partial_folder(out) / file).unlink()
    want = None if file == "run.json" else DONE if file.endswith("images.u8") else SHAPE[0]
    assert redone(out) == want


def test_a_missing_folder_of_a_snapshot_is_made_again(out) -> None:
    shutil.rmtree(partial_folder(out) / "step2")
    assert redone(out) == SHAPE[0]


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("kind", ["folder", "link", "pipe"])
def test_what_is_no_plain_file_is_refused_and_not_written_through(out, file, kind, tmp_path) -> None:
    import os

    path, other = partial_folder(out) / file, tmp_path / "mine"
    path.unlink()
    other.write_text("mine")
    if kind == "folder":
        path.mkdir()
    elif kind == "link":
        path.symlink_to(other)
    elif file != "run.json":
        os.mkfifo(path)
    with pytest.raises(BadInputError, match="rm -r "):
        open_store(out)
    assert other.read_text() == "mine"


def test_what_others_put_there_is_neither_run_over_nor_deleted(out) -> None:
    mine = partial_folder(out) / "notes.txt"
    mine.write_text("mine")
    with pytest.raises(BadInputError, match=r"\(notes.txt\); move that elsewhere and go on with --resume"):
        open_store(out)
    mine.unlink()
    (partial_folder(out) / ".DS_Store").touch()
    store = open_store(out)
    finish(store)
    mine.write_text("mine")
    store.remove()
    assert mine.read_text() == "mine"
    assert not (partial_folder(out) / "images.u8").exists()


def test_a_run_of_an_earlier_version_is_refused(out) -> None:
    header = partial_folder(out) / "run.json"
    header.write_text(json.dumps({"input": "f", "images": 3, "engine": "eager"}))
    for resume in (True, False):
        with pytest.raises(
            BadInputError, match=r"another version of jboost.*finish it with that version, or remove it: rm -r"
        ):
            open_store(out, resume=resume)
    for content in ([1, 2], {"format": FORMAT, "run": [1], "digest": digest([1])}, {"format": FORMAT}):
        header.write_text(json.dumps(content))
        with pytest.raises(BadInputError, match=r"is not an unfinished run .* rm -r"):
            open_store(out)


def test_a_folder_with_a_space_is_quoted_in_the_remedy(tmp_path) -> None:
    begun(tmp_path / "my out.npz")
    with pytest.raises(BadInputError) as raised:
        open_store(tmp_path / "my out.npz", resume=False)
    assert str(raised.value).endswith(f"rm -r '{tmp_path}/my out.npz.partial'")


def test_pixels_reach_the_disk_before_their_records_are_written(out, monkeypatch) -> None:
    events: list[tuple[str, str]] = []
    write, sync = partial.write_at, partial.sync
    monkeypatch.setattr(partial, "write_at", lambda f, *rest: (events.append(("write", f.name)), write(f, *rest)))
    monkeypatch.setattr(partial, "sync", lambda f: (events.append(("sync", f.name)), sync(f)))
    store = open_store(out)
    store.put(np.array([5]), images()[[5]], np.zeros(1, partial.RECORD))
    assert [(what, Path(name).name) for what, name in events] == [("write", "images.u8")]
    store.commit()
    names = [(what, Path(name).name) for what, name in events[1:]]
    assert names == [("sync", "images.u8"), ("write", "records.bin"), ("sync", "records.bin")]
    store.commit()
    assert len(events) == 4
    store.close()
