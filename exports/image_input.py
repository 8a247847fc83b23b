"""Images as an exported module takes them, and an error in one sentence for the rest."""

import tensorflow as tf

IMAGES = tf.TensorSpec([None, None, None, 3], tf.float32, name="images")

# A module has a function for each, whose shape is open for `checked_images` to say what is wrong: TensorFlow would list
# all functions. Each adds to the time that loading takes, so integers have one.
CALLED_WITH = tuple(
    tf.TensorSpec(None, dtype, name="images") for dtype in (tf.float32, tf.float64, tf.float16, tf.bfloat16, tf.uint8)
)


def checked_images(images: tf.Tensor) -> tf.Tensor:
    """Casts images to float32 `[B, H, W, 3]`.

    The checks are operations of the graph: a module that is loaded runs no Python.

    Args:
        images: floats in [0, 1].

    Raises:
        tf.errors.InvalidArgumentError: when the graph runs, for integers, another shape, or no images.
    """
    if images.dtype.is_floating:
        check = tf.debugging.Assert(tf.size(images) > 0, ["images is empty; give one image or more"])
    else:
        text = f"images are {images.dtype.name}; give floats in [0, 1]: tf.cast(images, tf.float32) / 255"
        check = tf.debugging.Assert(False, [text])
    with tf.control_dependencies([check]):
        images = tf.ensure_shape(images, IMAGES.shape)
    return tf.cast(images, tf.float32)
