"""Crops, bicubic resizing, flips and rotation of whole batches, with one geometry per image.

Images inside this package are planes, float [batch, channels, height, width]: the colour operations then
work on contiguous memory, and cropping, resizing and flipping together are two small matrix products.
"""

import math

import tensorflow as tf

NUM_CROP_TRIES = 100
NUM_CROP_DRAWS = 2 * NUM_CROP_TRIES + 2
CROP_ASPECT_RATIOS = (3 / 4, 4 / 3)
MIN_COVERED_AREA = 0.10


def _uniform_integer(draws: tf.Tensor, low: tf.Tensor, high: tf.Tensor) -> tf.Tensor:
    # A draw just below 1 times a large range rounds up to the range itself, hence the minimum.
    return low + tf.minimum(tf.floor(draws * (high - low + 1)), high - low)


def _sample_crop_sizes(
    draws: tf.Tensor, height: tf.Tensor, width: tf.Tensor, min_area: float
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    aspect_draws, height_draws = tf.split(draws, 2, axis=-1)
    smallest, largest = CROP_ASPECT_RATIOS
    aspect = smallest + (largest - smallest) * aspect_draws
    area = height * width

    widest = tf.floor((width + 0.5) / aspect)
    widest -= tf.cast(tf.round(widest * aspect) > width, tf.float32)
    highest = tf.minimum(tf.minimum(tf.round(tf.sqrt(area / aspect)), widest), height)
    lowest = tf.minimum(tf.round(tf.sqrt(min_area * area / aspect)), highest)
    heights = _uniform_integer(height_draws, lowest, highest)
    # Rounding alone must not reject a crop: one that became too small grows by a row.
    heights += tf.cast(heights * tf.round(heights * aspect) < min_area * area, tf.float32)
    widths = tf.round(heights * aspect)

    covered = heights * widths >= max(min_area, MIN_COVERED_AREA) * area
    fits = (heights >= 1) & (widths >= 1) & (heights <= height) & (widths <= width)
    return heights, widths, covered & fits


def sample_crop_boxes(draws: tf.Tensor, height: int | tf.Tensor, width: int | tf.Tensor, min_area: float) -> tf.Tensor:
    """Draws one random crop per image: the authors' "inception crop".

    Follows TensorFlow's `sample_distorted_bounding_box` with the whole image as the object: the height, not
    the area, is uniform, and crops that cover less than a tenth of the image are rejected. Unlike there, the
    last row and column can be reached, and the random numbers are given.

    Args:
        draws: float32 [batch, NUM_CROP_DRAWS], uniform in [0, 1).
        height: Height of the images in pixels, an int or a scalar tensor.
        width: Width of the images in pixels, likewise.
        min_area: The least share of the image that a crop covers, in (0, 1].

    Returns:
        int32 [batch, 4]: top row, left column, height and width in pixels; the whole image if none of
        NUM_CROP_TRIES tries is valid.
    """
    height, width = tf.cast(height, tf.float32), tf.cast(width, tf.float32)
    tries, offsets = draws[:, : 2 * NUM_CROP_TRIES], draws[:, 2 * NUM_CROP_TRIES : NUM_CROP_DRAWS]
    heights, widths, valid = _sample_crop_sizes(tries, height, width, min_area)
    order = tf.range(NUM_CROP_TRIES)
    first = tf.reduce_min(tf.where(valid, order, NUM_CROP_TRIES), axis=1, keepdims=True)
    # A sum with one term takes the first valid try: cheaper than a gather when compiled.
    chosen = tf.cast(order == first, tf.float32)
    found = tf.cast(first[:, 0] < NUM_CROP_TRIES, tf.float32)
    crop_height = tf.reduce_sum(heights * chosen, axis=1) + height * (1 - found)
    crop_width = tf.reduce_sum(widths * chosen, axis=1) + width * (1 - found)
    top = _uniform_integer(offsets[:, 0], tf.zeros_like(crop_height), height - crop_height)
    left = _uniform_integer(offsets[:, 1], tf.zeros_like(crop_width), width - crop_width)
    return tf.cast(tf.stack([top, left, crop_height, crop_width], axis=1), tf.int32)


def center_crop_box(height: int | tf.Tensor, width: int | tf.Tensor, proportion: float) -> tf.Tensor:
    """Returns the central square whose side is `proportion` of the shorter side, rounded as the authors do.

    Args:
        height: Height of the image in pixels, an int or a scalar tensor.
        width: Width of the image in pixels, likewise.
        proportion: Share of the shorter side, in (0, 1].

    Returns:
        int32 [4]: top row, left column, height and width in pixels.
    """
    height, width = tf.cast(height, tf.int32), tf.cast(width, tf.int32)
    shorter = tf.cast(tf.minimum(height, width), tf.float32)
    side = tf.cast(tf.round(proportion * shorter), tf.int32)
    return tf.stack([(height - side + 1) // 2, (width - side + 1) // 2, side, side])


def _keys_kernel(distance: tf.Tensor) -> tf.Tensor:
    t = tf.abs(distance)
    inner = (1.5 * t - 2.5) * t * t + 1
    outer = ((-0.5 * t + 2.5) * t - 4) * t + 2
    return tf.where(t < 1, inner, tf.where(t < 2, outer, tf.zeros_like(t)))


def _bicubic_weights(
    start: tf.Tensor, length: tf.Tensor, source_size: int, target_size: int, reverse: tf.Tensor | None = None
) -> tf.Tensor:
    """Computes the matrices, [batch, target_size, source_size], that crop one axis and resize it.

    The definition is that of `tf.image.resize(crop, method="bicubic")`: half-pixel centres, Keys' kernel with
    a = -0.5, no antialiasing, taps outside the crop dropped and the others renormalised. TensorFlow rounds
    the sampling positions to 1/1024 of a pixel; this does not. If `reverse`, [batch], the result runs backwards.
    """
    start = tf.cast(start, tf.float32)[:, tf.newaxis, tf.newaxis]
    length = tf.cast(length, tf.float32)[:, tf.newaxis, tf.newaxis]
    target = tf.range(target_size, dtype=tf.float32)[tf.newaxis, :, tf.newaxis]
    if reverse is not None:
        target = tf.where(reverse[:, tf.newaxis, tf.newaxis], target_size - 1 - target, target)
    # Positions are relative to the crop, as in TensorFlow, so that they round alike.
    source = tf.range(source_size, dtype=tf.float32) - start
    position = (target + 0.5) * (length / target_size) - 0.5
    inside = (source >= 0) & (source < length)
    weights = tf.where(inside, _keys_kernel(position - source), 0.0)
    return weights / tf.reduce_sum(weights, axis=-1, keepdims=True)


def crop_and_resize(
    images: tf.Tensor, boxes: tf.Tensor, size: int, *, flip: tf.Tensor | None = None, precise: bool = False
) -> tf.Tensor:
    """Crops each image to its box, resizes it bicubically to a square and flips it left to right.

    Args:
        images: float32 [batch, height, width, channels]; only the batch may be unknown when traced.
        boxes: int32 [batch, 4] or [1, 4]: top row, left column, height and width in pixels.
        size: Side of the result in pixels.
        flip: Optional bool [batch], which images to flip.
        precise: Whether to keep float32 precision, which matrix products may not; see `_product`.

    Returns:
        Planes, float32 [batch, channels, size, size]; the kernel overshoots the range of the source slightly.
    """
    _, height, width, channels = images.shape
    top, left, crop_height, crop_width = tf.unstack(boxes, axis=1)
    rows = _bicubic_weights(top, crop_height, height, size)
    columns = _bicubic_weights(left, crop_width, width, size, flip)
    resized = _product(rows, tf.reshape(images, [-1, height, width * channels]), precise)
    planes = tf.transpose(tf.reshape(resized, [-1, size, width, channels]), [0, 3, 1, 2])
    planes = tf.reshape(planes, [-1, channels * size, width])
    planes = _product(planes, tf.linalg.matrix_transpose(columns), precise)
    return tf.reshape(planes, [-1, channels, size, size])


def _product(left: tf.Tensor, right: tf.Tensor, precise: bool) -> tf.Tensor:
    """Multiplies matrices [batch, n, k] and [batch, k, m].

    The matrix units of GPUs and TPUs round factors to 11 or 8 bits, which is visible in pixels. A sum of products
    does not use them; the compiler fuses it into one loop.
    """
    if not precise:
        return tf.matmul(left, right)
    return tf.reduce_sum(left[:, :, :, tf.newaxis] * right[:, tf.newaxis], axis=2)


def rotate(planes: tf.Tensor, degrees: tf.Tensor) -> tf.Tensor:
    """Rotates each image about its centre, counter-clockwise, bilinearly, with zeros outside.

    The definition is that of torchvision's `rotate` with its default fill.

    Args:
        planes: float32 [batch, channels, size, size].
        degrees: float32 [batch], angles in degrees.

    Returns:
        float32 [batch, channels, size, size].
    """
    channels, size = planes.shape[1], planes.shape[2]
    radians = (degrees * (math.pi / 180))[:, tf.newaxis, tf.newaxis]
    offset = tf.range(size, dtype=tf.float32) - (size - 1) / 2
    down, right = offset[:, tf.newaxis], offset[tf.newaxis, :]
    row = tf.cos(radians) * down + tf.sin(radians) * right + (size - 1) / 2
    column = tf.cos(radians) * right - tf.sin(radians) * down + (size - 1) / 2

    flat = tf.reshape(planes, [-1, channels, size * size])
    top, left = tf.floor(row), tf.floor(column)
    rotated = tf.zeros_like(planes)
    for tap_row, tap_column in ((top, left), (top, left + 1), (top + 1, left), (top + 1, left + 1)):
        inside = (tap_row >= 0) & (tap_row < size) & (tap_column >= 0) & (tap_column < size)
        weight = (1 - tf.abs(row - tap_row)) * (1 - tf.abs(column - tap_column))
        weight = tf.where(inside, weight, 0.0)
        index = tf.cast(tf.where(inside, tap_row * size + tap_column, 0.0), tf.int32)
        taps = tf.gather(flat, tf.reshape(index, [-1, size * size]), axis=2, batch_dims=1)
        rotated += tf.reshape(taps, [-1, channels, size, size]) * weight[:, tf.newaxis]
    return rotated
