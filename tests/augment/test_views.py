"""Views as a whole: random draws, shapes, determinism, and equality of the ways to run them."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from tf_simclr.augment import NUM_DRAWS, EvalView, TrainView, draw_uniforms

FULL = TrainView(image_size=24, crop_min_area=0.2, random_rotation=20.0, color_jitter_strength=1.0, use_blur=True)
PLAIN = TrainView(image_size=24)


def _images(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def _smooth_images(batch, height, width):
    noise = np.random.default_rng(0).random((batch, 4, 4, 3), dtype=np.float32)
    return tf.cast(tf.clip_by_value(tf.image.resize(noise, [height, width], "bicubic"), 0, 1) * 255, tf.uint8)


def test_draw_uniforms_slice_equals_later_start():
    all_rows = draw_uniforms(3, 1, 0, 40).numpy()
    assert all_rows.shape == (40, NUM_DRAWS) and all_rows.dtype == np.float32 and NUM_DRAWS % 4 == 0
    np.testing.assert_array_equal(draw_uniforms(3, 1, 17, 9), all_rows[17:26])


def test_draw_uniforms_under_xla_with_traced_position_equals_eager():
    start = 2**32 * 4 // NUM_DRAWS - 3  # The counter of the rows exceeds 32 bits on the way.
    compiled = tf.function(lambda position: draw_uniforms(3, 1, position, 3), jit_compile=True)
    np.testing.assert_array_equal(compiled(tf.constant(start + 5, tf.int64)), draw_uniforms(3, 1, start, 8)[5:])


@pytest.mark.parametrize(("seed", "view", "start"), [(0, 1, 0), (1, 0, 0), (2**31 - 1, 0, 0), (0, 0, 1)])
def test_draw_uniforms_differ_between_seeds_views_and_rows(seed, view, start):
    one, other = draw_uniforms(0, 0, 0, 64).numpy(), draw_uniforms(seed, view, start, 64).numpy()
    assert (one == other).mean() < 0.001
    assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 0.03


def test_draw_uniforms_are_uniform():
    draws = draw_uniforms(7, 0, 1000, 400).numpy()
    assert draws.min() >= 0 and draws.max() < 1
    counts = np.histogram(draws, bins=10, range=(0, 1))[0] / draws.size
    np.testing.assert_allclose(counts, 0.1, atol=0.005)
    np.testing.assert_allclose(draws.mean(axis=0), 0.5, atol=0.08)


@pytest.mark.parametrize(("seed", "view", "name"), [(-1, 0, "seed"), (2**32, 0, "seed"), (0, -1, "view")])
def test_draw_uniforms_refuses_keys_out_of_range(seed, view, name):
    with pytest.raises(ValueError, match=f"{name} must be in"):
        draw_uniforms(seed, view, 0, 1)


@pytest.mark.slow
def test_train_view_eager_equals_graph_equals_xla():
    signature = (tf.TensorSpec([None, 30, 36, 3], tf.uint8), tf.TensorSpec([None, NUM_DRAWS], tf.float32))
    images, draws = _smooth_images(8, 30, 36), draw_uniforms(0, 0, 0, 8)
    eager = FULL(images, draws).numpy()
    np.testing.assert_allclose(tf.function(FULL, input_signature=signature)(images, draws), eager, atol=1e-4)
    compiled = tf.function(FULL, jit_compile=True)
    result = compiled(images, draws).numpy()
    np.testing.assert_allclose(result, eager, atol=1e-4)
    np.testing.assert_array_equal(compiled(images, draws), result)
    other = compiled(images, draw_uniforms(0, 1, 0, 8))
    assert np.abs(result - other).max(axis=(1, 2, 3)).min() > 0.1


@pytest.mark.slow
def test_train_view_of_one_image_equals_its_row_of_a_batch():
    images, draws = _smooth_images(12, 30, 36), draw_uniforms(5, 0, 0, 12)
    batch, alone = FULL(images, draws), tf.function(FULL, jit_compile=True)
    for row in range(12):
        one = images[row : row + 1], draws[row : row + 1]
        np.testing.assert_allclose(FULL(*one)[0], batch[row], atol=1e-6)
        np.testing.assert_allclose(alone(*one)[0], batch[row], atol=1e-5)


@pytest.mark.parametrize("source", [(40, 40, 3), (30, 50, 3), (50, 30, 1), (24, 24, 1), (9, 1, 3), (1, 1, 3)])
def test_views_have_requested_size_and_range(source):
    images, draws = _images(5, *source), draw_uniforms(0, 0, 0, 5)
    evaluate = EvalView(image_size=48)
    for size, batch, single in (
        (24, FULL(images, draws), PLAIN.crop_image(images[0], draws[0])),
        (48, evaluate(images), evaluate.crop_image(images[0])),
    ):
        assert batch.shape == (5, size, size, 3) and batch.dtype == tf.float32
        assert tf.reduce_min(batch) >= 0 and tf.reduce_max(batch) <= 1
        assert single.shape == (size, size, 3) and single.dtype == tf.float32


@pytest.mark.parametrize("source", [(30, 36, 3), (60, 20, 3), (36, 36, 1)])
def test_views_of_a_batch_equal_those_of_its_images(source):
    images, draws = _smooth_images(6, *source[:2])[..., : source[2]], draw_uniforms(0, 0, 0, 6)
    evaluate = EvalView(image_size=40)
    for row in range(6):
        one = PLAIN.crop_image(images[row], draws[row])
        np.testing.assert_allclose(one, PLAIN.crop_batch(images, draws)[row], atol=2e-3)
        np.testing.assert_allclose(evaluate.crop_image(images[row]), evaluate(images)[row], atol=2e-3)


def test_crop_image_accepts_images_of_unknown_size():
    signature = (tf.TensorSpec([None, None, 3], tf.uint8), tf.TensorSpec([NUM_DRAWS], tf.float32))
    train = tf.function(PLAIN.crop_image, input_signature=signature)
    evaluate = tf.function(EvalView(image_size=40).crop_image, input_signature=signature[:1])
    draws = draw_uniforms(0, 0, 0, 1)[0]
    for shape in ((30, 36, 3), (1, 50, 3), (300, 20, 3)):
        image = _images(*shape)
        result = train(image, draws)
        assert result.shape == (24, 24, 3)
        np.testing.assert_allclose(result, PLAIN.crop_image(image, draws), atol=1e-6)
        assert evaluate(image).shape == (40, 40, 3)


def test_eval_view_copies_pixels_at_same_size():
    images = _images(2, 24, 24, 3)
    expected = images.astype(np.float32) / 255
    np.testing.assert_array_equal(EvalView(image_size=24)(images), expected)
    np.testing.assert_array_equal(EvalView(image_size=24).crop_image(images[0]), expected[0])
    compiled = tf.function(EvalView(image_size=24), jit_compile=True)
    np.testing.assert_allclose(compiled(images), expected, atol=1e-7)


def test_eval_view_crops_the_center_above_32_pixels_and_the_shorter_side_below():
    images = _images(1, 64, 48, 3)
    np.testing.assert_array_equal(EvalView(image_size=42)(images), images[:, 11:53, 3:45].astype(np.float32) / 255)
    images = _images(1, 40, 32, 3)
    np.testing.assert_array_equal(EvalView(image_size=32)(images), images[:, 4:36].astype(np.float32) / 255)


def test_train_view_on_device_crops_alike():
    images, draws = _images(6, 30, 36, 3), draw_uniforms(0, 0, 0, 6)
    on_device = dataclasses.replace(PLAIN, on_device=True)
    np.testing.assert_allclose(on_device(images, draws), PLAIN(images, draws), atol=1e-6)


def test_train_view_flips_half_of_the_images():
    source = np.broadcast_to(np.linspace(0, 1, 16, dtype=np.float32)[:, np.newaxis], (1000, 16, 16, 1))
    draws = draw_uniforms(0, 0, 0, 1000)
    views = TrainView(image_size=8).crop_batch(source, draws).numpy()
    assert abs((views[:, :, 0].mean(axis=(1, 2)) > views[:, :, -1].mean(axis=(1, 2))).mean() - 0.5) < 0.05
    views = TrainView(image_size=8, use_flip=False).crop_batch(source, draws).numpy()
    assert (views[:, :, 0].mean(axis=(1, 2)) < views[:, :, -1].mean(axis=(1, 2))).all()


def test_train_view_without_strength_leaves_colors_alone():
    draws = draw_uniforms(0, 0, 0, 50)
    images = np.random.default_rng(0).random((50, 24, 24, 3), dtype=np.float32)
    np.testing.assert_array_equal(PLAIN.distort(images, draws), images)
    constant = np.broadcast_to(np.array([0.8, 0.4, 0.1], np.float32), (50, 30, 30, 3))
    np.testing.assert_allclose(PLAIN(constant, draws), constant[:, :24, :24], atol=1e-6)


def test_train_view_scales_bytes_and_keeps_floats():
    images, draws = _images(4, 30, 30, 3), draw_uniforms(0, 0, 0, 4)
    np.testing.assert_array_equal(PLAIN(images, draws), PLAIN(images.astype(np.float32) / 255, draws))
    np.testing.assert_allclose(PLAIN(images, draws), PLAIN(images / 255.0, draws), atol=1e-6)


@pytest.mark.parametrize("view", [PLAIN, EvalView(image_size=24)])
def test_views_refuse_other_channels_types_and_sizes(view):
    draws = (draw_uniforms(0, 0, 0, 2),) if view is PLAIN else ()
    with pytest.raises(ValueError, match=r"Received: shape=\(2, 9, 9, 4\)"):
        view(_images(2, 9, 9, 4), *draws)
    with pytest.raises(ValueError, match=r"Received: shape=\(9, 9, 4\)"):
        view.crop_image(_images(9, 9, 4), *(rows[0] for rows in draws))
    with pytest.raises(ValueError, match="Received: dtype=int32"):
        view(tf.zeros([2, 9, 9, 3], tf.int32), *draws)
    with pytest.raises(ValueError, match="use crop_image"):
        view(tf.zeros([9, 9, 3], tf.uint8), *draws)
