"""Gaussian blur of whole batches, with one width per image."""

import functools

import tensorflow as tf

from tf_simclr.augment.choices import Choice, choose_some, per_image

BLUR_PROBABILITY = 0.5
SIGMA_RANGE = (0.1, 2.0)


def blur_radius(size: int) -> int:
    """Returns the reach of the blur in pixels for images of `size` x `size` pixels (224 -> 11, 23 taps)."""
    return (size // 10) // 2


def blur_choice(draws: tf.Tensor) -> Choice:
    """Returns the choice to blur half of the images, with sigma uniform between 0.1 and 2 pixels.

    Args:
        draws: float32 [batch, 2], uniform in [0, 1): whether to blur, then sigma.
    """
    low, high = SIGMA_RANGE
    sigma = low + (high - low) * draws[:, 1]
    return choose_some(draws[:, 0] < BLUR_PROBABILITY, functools.partial(gaussian_blur, sigma))


def gaussian_blur(sigma: tf.Tensor, planes: tf.Tensor) -> tf.Tensor:
    """Blurs images with a separable Gaussian, as two weighted sums of shifted images.

    SimCLR (arXiv 2002.05709, appendix A). The kernel is normalised over its taps; pixels outside the image
    are zero and are not compensated for, as in the authors' code. They draw one sigma per batch; here each
    image has its own. Images smaller than 20 pixels have a radius of 0 and do not change.

    Args:
        sigma: float32 [batch], standard deviation in pixels, above 0.
        planes: float32 [batch, channels, size, size].

    Returns:
        float32 [batch, channels, size, size].
    """
    radius = blur_radius(planes.shape[2])
    if radius == 0:
        return planes
    distance = tf.range(radius + 1, dtype=tf.float32)
    taps = tf.exp(-0.5 * tf.square(distance[:, tf.newaxis] / sigma))
    taps /= 2 * tf.reduce_sum(taps, axis=0) - taps[0]  # All taps except the middle one occur twice.
    return _filter(_filter(planes, taps, 2), taps, 3)


def _filter(planes: tf.Tensor, taps: tf.Tensor, axis: int) -> tf.Tensor:
    """Filters along one axis; `taps` [radius + 1, batch] go from the middle outwards."""
    radius = taps.shape[0] - 1
    padded = tf.pad(planes, [[radius, radius] if number == axis else [0, 0] for number in range(4)])

    def shifted(by: int) -> tf.Tensor:
        start, size = [0] * 4, [-1] * 4
        start[axis], size[axis] = radius + by, planes.shape[axis]
        return tf.slice(padded, start, size)

    result = per_image(taps[0]) * planes
    for distance in range(1, radius + 1):
        result += per_image(taps[distance]) * (shifted(distance) + shifted(-distance))
    return result
