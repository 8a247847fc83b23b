"""Views made in the input pipeline, image by image, or in the training step, a batch at a time.

Both make the same views from the same random numbers, up to rounding. The CPU takes one image at a time, so it
computes only the transforms drawn for that image, and the image stays in its cache.
"""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tf_simclr.augment.views import TrainView
from tf_simclr.data.source import Source

VIEW_PARTS = frozenset(["views", "images", "draws"])
"""Keys of the views of a batch, or of their inputs."""

Views = tuple[tf.Tensor, ...]
Batch = dict[str, Any]


def row_parts(view: TrainView) -> Callable[[Views, Views], Batch]:
    """Returns the function from the crops of one image, [S, S, 3], and their draws to its part of a batch."""

    def make(crops: Views, draws: Views) -> Batch:
        pairs = zip(crops, draws, strict=True)
        return {"views": tuple(view.distort(crop[tf.newaxis], one[tf.newaxis])[0] for crop, one in pairs)}

    return _for_the_step if view.on_device else _compiled(make)


def array_parts(view: TrainView) -> Callable[[tf.Tensor, Views], Batch]:
    """Returns the function from images of one size and the draws of each view to their part of a batch."""

    def one_image(row: tuple[tf.Tensor, Views]) -> Views:
        image, draws = row
        return tuple(view(image[tf.newaxis], one[tf.newaxis])[0] for one in draws)

    def make(images: tf.Tensor, draws: Views) -> Batch:
        return {"views": tf.map_fn(one_image, (images, draws), fn_output_signature=(tf.float32,) * len(draws))}

    return _for_the_step if view.on_device else _compiled(make)


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    compiled: Callable[..., Any] = tf.function(function, jit_compile=True, autograph=False)
    return compiled


def _for_the_step(images: tf.Tensor | Views, draws: Views) -> Batch:
    return {"images": images, "draws": draws}


def step_views(source: Source, view: TrainView) -> Callable[[Batch], Batch]:
    """Returns the first operation of a training step, from a batch of one replica to a batch with `views`.

    Args:
        source: Source of the batches.
        view: The view that `data.train_dataset` was given; a batch is unchanged unless it is `on_device`.
    """
    if not view.on_device:
        return lambda batch: batch

    def make(images: tf.Tensor | Views, draws: Views) -> Views:
        if source.holds_arrays:
            return tuple(view(images, one) for one in draws)
        return tuple(map(view.distort, images, draws))

    compiled = _compiled(make)

    def complete(batch: Batch) -> Batch:
        rest = {name: value for name, value in batch.items() if name not in VIEW_PARTS}
        return rest | {"views": compiled(batch["images"], batch["draws"])}

    return complete
