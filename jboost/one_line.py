"""`jboost.boost` and `jboost.boost_iter`: a bundle's path and the images, without a `Booster` to open and close."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jboost.booster import Booster
from jboost.engine.errors import BadInputError
from jboost.engine.method.auto_step import check_not_auto
from jboost.engine.method.plugins import find_update_name
from jboost.engine.method.settings import find_preset, make_update
from jboost.engine.method.updates import Update

#: What opens a bundle; everything else describes the run.
_OPENING = ("engine", "device", "dtype", "batch_size", "trust_code")
_RUN = ("objective", "l0", "early_stop", "seed", "value_range", "layout", "numbers", "rounding", "first_step")

_lock = threading.Lock()
#: The bundle opened last, while no call uses it.
_kept: list[tuple[tuple[Any, ...], Booster]] = []


def boost(images: Any, labels: Any = None, *, bundle: str | Path = "bundle", **options: Any) -> Any:
    """Make images look more real, in one line: ``better = jboost.boost(images, labels, bundle="bundle", preset="ct1")``.

    The bundle stays open for the next call with the same bundle and engine options; a call with others closes it. To free its
    memory earlier, or to read the run's figures, use `jboost.load`.

    Args:
        images: uint8 or float numpy arrays, torch tensors, or lists of PIL images; see `jboost.conversion.take`.
        labels: integers [N], each image's class; ``"predicted"`` or None: the model's prediction; ``"debiased"``: as for
            `Booster.boost`.
        bundle: the bundle's folder, or ``"hf://user/repo@revision"``.
        options: ``engine``, ``device``, ``dtype``, ``batch_size`` and ``trust_code`` as for `jboost.load`; ``preset``, a
            name; ``update``, a name or an `Update`; the update's own fields, such as ``steps`` and ``step_size``; and
            ``objective``, ``l0``, ``early_stop``, ``seed``, ``value_range``, ``layout``, ``numbers`` and ``rounding`` as for
            `Booster.boost`.

    Returns:
        The boosted images, of the same kind, dtype and layout as `images`. The engines start from 8 bits: float images are
        rounded to 256 levels. An image that does not change comes back bit for bit.

    Raises:
        BadInputError: the bundle, the images or an option cannot be used.
        TypeError: there is no such option.
    """
    opening, run = sorted_options(options)
    with _opened(bundle, opening) as booster:
        return booster.boost(images, labels, **run).images


def boost_iter(
    chunks: Iterable[Any],
    *,
    bundle: str | Path = "bundle",
    ordered: bool = True,
    labels: str | None = None,
    **options: Any,
) -> Iterator[Any]:
    """Boost a stream: ``for image in jboost.boost_iter(chunks, bundle="bundle"): ...``.

    Args:
        chunks: images, or (images, labels), in chunks of any size; see `Booster.boost_iter`.
        bundle: the bundle's folder, or ``"hf://user/repo@revision"``.
        ordered: yield in the stream's order; False: yield (position, image) as images finish.
        labels: which classes the images climb; see `Booster.boost_iter`.
        options: as for `boost`.

    Returns:
        An iterator over images, each of its chunk's kind. Closing it frees the images in flight.

    Raises:
        BadInputError, TypeError: as for `boost`; options are checked now, chunks when they are read.
    """
    opening, run = sorted_options(options)
    check_not_auto(run["update"], run.pop("step_size", None), run.pop("first_step", None))

    def stream() -> Iterator[Any]:
        with _opened(bundle, opening) as booster:
            yield from booster.boost_iter(chunks, ordered=ordered, labels=labels, **run)

    return stream()


def sorted_options(options: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The options that open a bundle, and those of `Booster.boost`."""
    opening = {name: options.pop(name) for name in _OPENING if name in options}
    run = {name: options.pop(name) for name in _RUN if name in options}
    preset = find_preset(options.pop("preset", None))
    update = options.pop("update", None)
    if isinstance(options.get("step_size"), str):  # "auto", or a misspelling that the settings refuse
        run["step_size"] = options.pop("step_size")
    if isinstance(update, Update):
        if options:
            raise BadInputError(
                f"update is an object, so its values stand in it; leave {', '.join(options)} out or give update by name"
            )
    else:
        if update is not None:
            update = find_update_name(update, trust_code=bool(opening.get("trust_code")))
        update = make_update(preset, update=update, **options)
    return opening, run | {"update": update, "preset": preset}


@contextmanager
def _opened(bundle: str | Path, opening: dict[str, Any]) -> Iterator[Booster]:
    """A booster that no other call uses: the kept one if it fits, else a new one; kept afterwards, unless a call failed."""
    key = (str(bundle), *((name, opening.get(name)) for name in _OPENING))
    with _lock:
        known, booster = _kept.pop() if _kept else (None, None)
    if booster is not None and (known != key or not _unchanged(booster)):
        booster.close()
        booster = None
    if booster is None:
        booster = Booster(bundle, **opening)
    try:
        yield booster
    except BaseException:
        booster.close()
        raise
    with _lock:
        kept, _kept[:] = _kept[:], [(key, booster)]
    for _, other in kept:
        other.close()


def _unchanged(booster: Booster) -> bool:
    """Whether the folder still holds the bundle that was opened."""
    try:
        booster.bundle.check_unreplaced()
    except BadInputError:
        return False
    return True
