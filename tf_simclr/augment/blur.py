"""Gaussian blur of whole batches, with one width an image."""

import tensorflow as tf

BLUR_PROBABILITY = 0.5
SIGMA_RANGE = (0.1, 2.0)


def blur_radius(size: int) -> int:
    """Returns the reach of the blur in pixels for images of `size` x `size` pixels (224 -> 11, 23 taps)."""
    return (size // 10) // 2


def gaussian_blur(planes: tf.Tensor, sigma: tf.Tensor, apply: tf.Tensor) -> tf.Tensor:
    """Blurs the chosen images with a separable Gaussian as two banded matrix products.

    SimCLR (arXiv 2002.05709, appendix A). The kernel is normalised over its taps; pixels outside the image
    are zero and are not compensated for, as in the authors' code. They draw one sigma a batch, here each
    image has its own. Images smaller than 20 pixels have a radius of 0 and stay as they are.

    Args:
      planes: float32 [batch, channels, size, size].
      sigma: float32 [batch], standard deviation in pixels, above 0.
      apply: bool [batch], which images to blur; the others stay exactly as they are.

    Returns:
      float32 [batch, channels, size, size].
    """
    channels, size = planes.shape[1], planes.shape[2]
    radius = blur_radius(size)
    if radius == 0:
        return planes
    sigma, apply = sigma[:, tf.newaxis, tf.newaxis], apply[:, tf.newaxis, tf.newaxis]
    pixel = tf.range(size, dtype=tf.float32)
    distance = tf.abs(pixel[:, tf.newaxis] - pixel[tf.newaxis, :])
    taps = tf.range(-radius, radius + 1, dtype=tf.float32)
    total = tf.reduce_sum(tf.exp(-0.5 * tf.square(taps / sigma)), axis=-1, keepdims=True)
    kernel = tf.where(distance <= radius, tf.exp(-0.5 * tf.square(distance / sigma)) / total, 0.0)
    # Identity matrices instead of a choice between images: the products are needed anyway.
    kernel = tf.where(apply, kernel, tf.eye(size))

    across = tf.matmul(tf.reshape(planes, [-1, channels * size, size]), kernel)
    rows_first = tf.transpose(tf.reshape(across, [-1, channels, size, size]), [0, 2, 1, 3])
    down = tf.matmul(kernel, tf.reshape(rows_first, [-1, size, channels * size]))
    return tf.transpose(tf.reshape(down, [-1, size, channels, size]), [0, 2, 1, 3])


def random_blur(planes: tf.Tensor, draws: tf.Tensor) -> tf.Tensor:
    """Blurs half of the images, with sigma uniform between 0.1 and 2 pixels.

    Args:
      planes: float32 [batch, channels, size, size].
      draws: float32 [batch, 2], uniform in [0, 1): whether, then sigma.

    Returns:
      float32 [batch, channels, size, size].
    """
    low, high = SIGMA_RANGE
    return gaussian_blur(planes, low + (high - low) * draws[:, 1], draws[:, 0] < BLUR_PROBABILITY)
