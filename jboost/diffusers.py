"""Boosting what a pipeline of Hugging Face diffusers returns.

    pipe = ConsistencyModelPipeline.from_pretrained(...)
    boost = jboost.diffusers.Boost("bundle", preset="ct1")
    classes = [0, 5, 7, 7]
    output = boost(pipe(batch_size=4, class_labels=classes), class_labels=classes)
    output.images

This module does not import diffusers: the pipeline's output says what it is.
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from jboost.booster import Booster
from jboost.conversion import class_labels as as_labels
from jboost.engine.errors import BadInputError
from jboost.one_line import sorted_options

#: Pipelines return arrays and tensors in [0, 1]; with ``output_type="latent"``, something else.
_RANGE = (0.0, 1.0)


class Boost:
    """Boosts a pipeline's output; a callable and a context manager.

    Args:
        bundle: the bundle's folder, or ``"hf://user/repo@revision"``.
        options: as for `jboost.boost`: ``preset``, ``update`` and its fields, ``objective``, ``engine``, ``device``, ...

    Raises:
        BadInputError: the bundle or an option cannot be used.
        TypeError: there is no such option.
    """

    def __init__(self, bundle: str | Path = "bundle", **options: Any):
        opening, self._run = sorted_options(options)
        self.booster = Booster(bundle, **opening)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Free the engine and its memory."""
        self.booster.close()

    def __call__(self, output: Any, class_labels: Any = None) -> Any:
        """Boost an output.

        Args:
            output: a pipeline's output with ``images`` (PIL images, or an array or tensor in [0, 1]), the tuple that
                ``return_dict=False`` gives, or the images themselves.
            class_labels: the pipeline's own argument: an int for all images, a list, or a tensor [N]; None: the model's
                predictions; ``"debiased"``: see `jboost.Booster.boost`. A class-conditional pipeline that got no labels has
                drawn them at random and does not return them.

        Returns:
            The same kind of output, with boosted images of the same type, dtype and layout. `output` is left as it is.

        Raises:
            BadInputError: there are no images in `output`, they do not fit the bundle, or the labels do not fit them.
        """
        if isinstance(output, tuple):
            if not output:
                raise BadInputError("the pipeline's output is an empty tuple; give its images")
            return (self._boosted(output[0], class_labels), *output[1:])
        if hasattr(output, "images"):
            values = dict(output) if isinstance(output, dict) else dict(vars(output))
            return type(output)(**{**values, "images": self._boosted(output.images, class_labels)})
        return self._boosted(output, class_labels)

    def _boosted(self, images: Any, labels: Any) -> Any:
        if isinstance(images, list) and any(not hasattr(image, "mode") for image in images):
            raise BadInputError(
                f"the pipeline's images are a list of {type(images[0]).__name__}; jboost takes PIL images, an array or a tensor: "
                'call the pipeline with output_type "pil", "np" or "pt"'
            )
        if labels is not None and not isinstance(labels, str):
            labels = as_labels(labels)
            if labels.ndim == 0:
                labels = np.repeat(labels, len(images))
        floats = not isinstance(images, list) and "float" in str(getattr(images, "dtype", ""))
        return self.booster.boost(images, labels, value_range=_RANGE if floats else None, **self._run).images
