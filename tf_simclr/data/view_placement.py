"""Making views in the input pipeline, image by image, or in the training step, a batch at a time.

Both make the same views from the same random numbers, up to rounding. The CPU takes one image at a time, so it
computes only the transforms drawn for that image, and the image stays in its cache.
"""

from collections.abc import Callable

import tensorflow as tf

from tf_simclr.augment.views import TrainView
from tf_simclr.data.source import Source

VIEW_PARTS = frozenset(["views", "images", "draws"])
"""Keys of the views of a batch, or of their inputs."""

Views = tuple[tf.Tensor, ...]


def row_parts(view: TrainView) -> Callable[[Views, Views], dict]:
    """Returns the function from the crops of one image, [S, S, 3], and their draws to its part of a batch."""
    if view.on_device:
        return _for_the_step

    @tf.function(jit_compile=True, autograph=False)
    def make(crops: Views, draws: Views) -> dict:
        pairs = zip(crops, draws, strict=True)
        return {"views": tuple(view.distort(crop[tf.newaxis], one[tf.newaxis])[0] for crop, one in pairs)}

    return make


def array_parts(view: TrainView) -> Callable[[tf.Tensor, Views], dict]:
    """Returns the function from images of one size and the draws of each view to their part of a batch."""
    if view.on_device:
        return _for_the_step

    def one_image(row: tuple) -> Views:
        image, draws = row
        return tuple(view(image[tf.newaxis], one[tf.newaxis])[0] for one in draws)

    @tf.function(jit_compile=True, autograph=False)
    def make(images: tf.Tensor, draws: Views) -> dict:
        views = tf.map_fn(one_image, (images, draws), fn_output_signature=(tf.float32,) * len(draws))
        return {"views": views}

    return make


def _for_the_step(images: tf.Tensor | Views, draws: Views) -> dict:
    return {"images": images, "draws": draws}


def step_views(source: Source, view: TrainView) -> Callable[[dict], dict]:
    """Returns the first operation of a training step: making the views, unless the batch already has them.

    Args:
        source: Source of the batches.
        view: The view that `data.train_dataset` was given.

    Returns:
        Function of a batch of one replica to a batch with `views`.
    """
    if not view.on_device:
        return lambda batch: batch

    def make(images: tf.Tensor | Views, draws: Views) -> Views:
        if source.holds_arrays:
            return tuple(view(images, one) for one in draws)
        return tuple(map(view.distort, images, draws))

    compiled = tf.function(make, jit_compile=True, autograph=False)

    def complete(batch: dict) -> dict:
        rest = {name: value for name, value in batch.items() if name not in VIEW_PARTS}
        return rest | {"views": compiled(batch["images"], batch["draws"])}

    return complete
