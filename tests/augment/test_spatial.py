"""Crop sampler, bicubic crop-and-resize and rotation, against plain loops and TensorFlow's operations."""

import math

import numpy as np
import pytest
import tensorflow as tf

from tf_simclr.augment import spatial


def _uniform(rows, columns, seed=0):
    return np.random.default_rng(seed).random((rows, columns), dtype=np.float32)


def _keys(distance):
    t = abs(distance)
    if t <= 1:
        return 1.5 * t**3 - 2.5 * t**2 + 1
    return -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2 if t < 2 else 0.0


def _resize_axis_0(values, size):
    length = len(values)
    rows = []
    for i in range(size):
        position = (i + 0.5) * length / size - 0.5
        taps = [k for k in range(math.floor(position) - 1, math.floor(position) + 3) if 0 <= k < length]
        weights = [_keys(position - k) for k in taps]
        rows.append(sum(w * values[k] for w, k in zip(weights, taps, strict=True)) / sum(weights))
    return np.stack(rows)


def _resize_loops(image, size):
    return _resize_axis_0(_resize_axis_0(image.astype(np.float64), size).swapaxes(0, 1), size).swapaxes(0, 1)


def _to_images(planes):
    return np.transpose(planes, [0, 2, 3, 1])


BOXES = [(0, 0, 13, 17), (2, 5, 6, 4), (12, 16, 1, 1), (0, 3, 13, 1), (1, 1, 9, 12)]


@pytest.mark.parametrize("size", [1, 5, 13, 24])
def test_crop_and_resize_equals_loops_and_tensorflow(size):
    images = _uniform(len(BOXES), 13 * 17 * 3).reshape(-1, 13, 17, 3)
    flip = np.array([False, True, False, True, True])
    result = _to_images(spatial.crop_and_resize(images, tf.constant(BOXES), size, flip=flip))
    for image, (top, left, height, width), flipped, found in zip(images, BOXES, flip, result, strict=True):
        crop = image[top : top + height, left : left + width]
        actual = found[:, ::-1] if flipped else found
        np.testing.assert_allclose(actual, _resize_loops(crop, size), atol=1e-5)
        np.testing.assert_allclose(actual, tf.image.resize(crop, [size, size], "bicubic"), atol=2e-3)


def _tensorflow_areas(height, width, min_area, count):
    box = tf.zeros([1, 1, 4]) + tf.constant([0.0, 0.0, 1.0, 1.0])

    def area(seed):
        _, size, _ = tf.image.stateless_sample_distorted_bounding_box(
            [height, width, 3], box, seed=[seed, 7], min_object_covered=0.1,
            aspect_ratio_range=(3 / 4, 4 / 3), area_range=(min_area, 1.0), max_attempts=100,
        )  # fmt: skip
        return size[0] * size[1]

    areas = tf.function(lambda: tf.map_fn(area, tf.range(count), fn_output_signature=tf.int32))()
    return np.sort(areas.numpy() / (height * width))


@pytest.mark.parametrize(
    ("height", "width", "min_area"), [(500, 500, 0.08), (200, 700, 0.08), (32, 32, 0.08), (8, 8, 0.35)]
)
def test_sample_crop_boxes_areas_follow_tensorflow(height, width, min_area):
    count = 4000
    draws = _uniform(count, spatial.NUM_CROP_DRAWS)
    boxes = spatial.sample_crop_boxes(draws, height, width, min_area).numpy()
    areas = np.sort(boxes[:, 2] * boxes[:, 3] / (height * width))
    expected = _tensorflow_areas(height, width, min_area, count)
    grid = np.unique(np.concatenate([areas, expected]))
    gap = np.searchsorted(areas, grid, "right") - np.searchsorted(expected, grid, "right")
    # Kolmogorov-Smirnov distance of two samples of 4000: above 0.045 once in 1,700 comparisons.
    assert np.abs(gap).max() / count < 0.045


@pytest.mark.parametrize("shape", [(32, 32), (48, 20), (9, 1), (1, 1), (2, 300), (8, 8)])
@pytest.mark.parametrize("extreme", [0.0, 1 - 2**-24, None])
def test_sample_crop_boxes_stay_inside(shape, extreme):
    draws = _uniform(500, spatial.NUM_CROP_DRAWS)
    if extreme is not None:
        draws = np.full_like(draws, extreme)
    top, left, height, width = spatial.sample_crop_boxes(draws, *shape, 0.08).numpy().T
    assert (top >= 0).all() and (left >= 0).all() and (height >= 1).all() and (width >= 1).all()
    assert (top + height <= shape[0]).all() and (left + width <= shape[1]).all()


def test_sample_crop_boxes_reach_every_offset():
    draws = _uniform(5000, spatial.NUM_CROP_DRAWS)
    top, left, height, width = spatial.sample_crop_boxes(draws, 16, 16, 0.08).numpy().T
    assert ((top + height == 16) & (height < 16)).any() and ((left + width == 16) & (width < 16)).any()
    of_8 = top[height == 8]
    np.testing.assert_allclose(np.bincount(of_8, minlength=9) / len(of_8), 1 / 9, atol=0.05)


def test_sample_crop_boxes_takes_first_valid_try():
    draws = _uniform(1, spatial.NUM_CROP_DRAWS)
    draws[0, : spatial.NUM_CROP_TRIES] = 0.5
    # Height draw 0 gives an area of 0.08, which covers less than a tenth: rejected.
    draws[0, spatial.NUM_CROP_TRIES :][:100] = 0
    draws[0, spatial.NUM_CROP_TRIES + 60] = 0.5
    draws[0, spatial.NUM_CROP_TRIES + 70] = 0.9
    first = spatial.sample_crop_boxes(draws, 100, 100, 0.08).numpy()[0]
    draws[0, spatial.NUM_CROP_TRIES + 70] = 0.1
    np.testing.assert_array_equal(spatial.sample_crop_boxes(draws, 100, 100, 0.08).numpy()[0], first)
    assert first[2] < 90


def test_sample_crop_boxes_without_valid_try_take_whole_image():
    draws = _uniform(3, spatial.NUM_CROP_DRAWS)
    np.testing.assert_array_equal(spatial.sample_crop_boxes(draws, 3, 400, 0.08), [[0, 0, 3, 400]] * 3)
    draws[:, : 2 * spatial.NUM_CROP_TRIES] = 0
    np.testing.assert_array_equal(spatial.sample_crop_boxes(draws, 60, 50, 0.08), [[0, 0, 60, 50]] * 3)


@pytest.mark.parametrize(
    ("shape", "box"),
    [((500, 375), (86, 24, 328, 328)), ((10, 10), (1, 1, 9, 9)), ((1, 5), (0, 2, 1, 1)), ((4, 4), (0, 0, 4, 4))],
)
def test_center_crop_box_rounds_as_the_authors(shape, box):
    np.testing.assert_array_equal(spatial.center_crop_box(*shape, 0.875), box)


def test_rotate_equals_loops_counter_clockwise():
    size, angles = 6, [17.0, -131.0, 90.0, 0.0]
    planes = _uniform(4, size * size).reshape(4, 1, size, size)
    expected = np.zeros_like(planes)
    center = (size - 1) / 2
    for b, angle in enumerate(np.deg2rad(angles)):
        for i in range(size):
            for j in range(size):
                row = center + math.cos(angle) * (i - center) + math.sin(angle) * (j - center)
                column = center - math.sin(angle) * (i - center) + math.cos(angle) * (j - center)
                for k in range(size):
                    for m in range(size):
                        weight = max(0, 1 - abs(row - k)) * max(0, 1 - abs(column - m))
                        expected[b, 0, i, j] += weight * planes[b, 0, k, m]
    result = spatial.rotate(planes, tf.constant(angles))
    np.testing.assert_allclose(result, expected, atol=1e-5)
    np.testing.assert_allclose(result[2, 0], np.rot90(planes[2, 0]), atol=1e-5)
    np.testing.assert_array_equal(result[3], planes[3])
