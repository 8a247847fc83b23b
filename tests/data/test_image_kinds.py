"""All kinds of images, in views and exports, compared with Pillow's pixels; files that are no images."""

import functools
import io
import os
import struct
import zlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps

from exports.saved_model import _predict
from tf_simclr.augment.views import EvalView, TrainView, draw_uniforms
from tf_simclr.config import DataConfig
from tf_simclr.data import BatchPlan, eval_dataset, load_source, train_dataset
from tf_simclr.data.random_access import EncodedImages
from tf_simclr.images import decode as images

SEED, SIZE = 5, 8
RNG = np.random.default_rng(0)
TOLERANCE = 12 / 255  # Decoders of JPEG round, and enlarge its colours, in their own ways.
UPRIGHT = range(1, 9)


def encode(picture, kind, **options):
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def smooth(width, height):
    """Without sharp edges, which JPEG keeps least."""
    coarse = Image.fromarray(RNG.integers(0, 256, (4, 5, 3), dtype=np.uint8))
    return coarse.resize((width, height), Image.Resampling.BICUBIC)


def exif(orientation, order="<"):
    tags = Image.Exif()
    tags.endian = order
    tags[0x010F], tags[0x0112], tags[0x013B] = "Maker", orientation, "Someone"
    return tags.tobytes()


def png_of_16_bits(pixels):
    """RGB, which Pillow does not write."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    height, width, _ = pixels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@functools.cache
def kinds():
    """Encoded images by name."""
    rgb = smooth(40, 28)
    palette, alpha = rgb.quantize(64), RNG.integers(0, 256, (28, 40), np.uint8)
    rgba = Image.fromarray(np.dstack([np.asarray(rgb), alpha]))
    see_through = tuple(np.asarray(rgb)[3, 3].tolist())
    frames = [rgb.rotate(angle).quantize(64) for angle in (90, 180)]
    found = {
        "rgb.jpg": encode(rgb, "JPEG", quality=95),
        "progressive.jpg": encode(rgb, "JPEG", quality=95, progressive=True),
        "grey.jpg": encode(rgb.convert("L"), "JPEG", quality=95),
        "cmyk.jpg": encode(rgb.convert("CMYK"), "JPEG", quality=95),
        "grey.png": encode(rgb.convert("L"), "PNG"),
        "bit.png": encode(rgb.convert("1"), "PNG"),
        "grey16.png": encode(Image.fromarray(RNG.integers(0, 65536, (28, 40)).astype(np.uint16)), "PNG"),
        "rgb16.png": png_of_16_bits(RNG.integers(0, 65536, (28, 40, 3))),
        "palette.png": encode(palette, "PNG"),
        "palette_one_colour_transparent.png": encode(palette, "PNG", transparency=3),
        "rgba.png": encode(rgba, "PNG"),
        "grey_alpha.png": encode(rgba.convert("LA"), "PNG"),
        "rgb_one_colour_transparent.png": encode(rgb, "PNG", transparency=see_through),
        "animated.gif": encode(palette, "GIF", save_all=True, append_images=frames),
        "rgb.bmp": encode(rgb, "BMP"),
        "rgba.bmp": encode(rgba, "BMP"),
        "grey.bmp": encode(rgb.convert("L"), "BMP"),
        "palette.bmp": encode(palette, "BMP"),
        "1x40.png": encode(smooth(1, 40), "PNG"),
        "40x1.jpg": encode(smooth(40, 1), "JPEG", quality=95),
        "1x1.png": encode(smooth(1, 1), "PNG"),
        "10000x1.png": encode(smooth(10_000, 1), "PNG"),
        "1x10000.jpg": encode(smooth(1, 10_000), "JPEG", quality=95),
        "10000x800.jpg": encode(smooth(10_000, 800), "JPEG", quality=95),
        "icc_before_exif.jpg": encode(rgb, "JPEG", quality=95, icc_profile=bytes(3000), exif=exif(6)),
    }
    turned = {f"exif{n}.jpg": encode(rgb, "JPEG", quality=95, exif=exif(n, "<>"[n % 2])) for n in UPRIGHT}
    return found | turned


def pixels_of(content):
    """The pixels that Pillow shows: uint8 [H, W, 3]."""
    picture = Image.open(io.BytesIO(content))
    if picture.mode == "I;16":  # Converted to RGB, all above 255 would be white.
        return np.repeat((np.asarray(picture) // 256).astype(np.uint8)[..., np.newaxis], 3, axis=-1)
    return np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))


@pytest.fixture(scope="module")
def source():
    names, contents = list(kinds()), list(kinds().values())
    labels = np.arange(len(names))
    return EncodedImages("kinds", contents, read=tf.identity, example_names=names, labels=labels, class_names=names)


def assert_same(received, expected, labels):
    for one, other, label in zip(received, expected, labels, strict=True):
        np.testing.assert_allclose(one, other, atol=TOLERANCE, err_msg=list(kinds())[label])


@pytest.mark.slow
def test_every_kind_in_training_views(source):
    view = TrainView(image_size=SIZE)
    plan = BatchPlan(global_batch_size=source.num_examples)
    (batch,) = train_dataset(source, view, plan=plan, seed=SEED).take(1).as_numpy_iterator()
    assert batch["bad_images"] == 0, source.bad_image_names()
    assert sorted(batch["labels"]) == list(range(source.num_examples))
    pixels = [pixels_of(content) for content in kinds().values()]
    for number in range(2):
        draws = draw_uniforms(SEED, number, 0, source.num_examples)
        pairs = zip((pixels[label] for label in batch["labels"]), draws, strict=True)
        expected = [np.clip(view.crop_image(image, one), 0, 1) for image, one in pairs]
        assert_same(batch["views"][number], expected, batch["labels"])


@pytest.mark.slow
def test_every_kind_in_evaluation_and_in_exports(source):
    view = EvalView(image_size=SIZE)
    plan = BatchPlan(global_batch_size=source.num_examples)
    (batch,) = eval_dataset(source, view, plan=plan).as_numpy_iterator()
    assert batch["bad_images"] == 0, source.bad_image_names()
    expected = [view.crop_image(pixels_of(content)) for content in kinds().values()]
    assert_same(batch["images"], expected, batch["labels"])
    predict = tf.function(lambda encoded: _predict(lambda views: {"default": views}, encoded, SIZE))
    served = predict(tf.constant(list(kinds().values())))["embedding"]
    assert_same(served, expected, batch["labels"])


@pytest.fixture(scope="module")
def orientation():
    return tf.function(images.exif_orientation, input_signature=[tf.TensorSpec([], tf.string)])


@pytest.mark.parametrize("order", "<>")
def test_orientation_is_that_of_the_tag_or_else_1(orientation, order):
    for number in range(10):
        content = encode(smooth(20, 20), "JPEG", exif=exif(number, order))
        assert orientation(content) == (number if number in UPRIGHT else 1)
    assert orientation(kinds()["rgb.jpg"]) == 1


def test_orientation_of_damaged_tags_harms_nothing(orientation):
    """A damaged tag counts as none, and the pixels stay readable."""
    decode = tf.function(images.decode_image, input_signature=[tf.TensorSpec([], tf.string)], autograph=False)
    content = kinds()["exif6.jpg"]
    start, end = content.index(b"Exif\0\0"), content.index(b"\xff\xdb")
    for _ in range(60):
        changed = bytearray(content)
        for place in RNG.integers(start, end, size=3):
            changed[place] = RNG.integers(256)
        turned = int(orientation(bytes(changed)))
        assert 1 <= turned <= 8
        assert decode(bytes(changed)).shape[:2] in ((28, 40), (40, 28))


def unreadable():
    """Files that are no images, or not of a format that TensorFlow reads; by name."""
    jpeg, rgb = kinds()["rgb.jpg"], smooth(40, 28)
    flat = bytearray(jpeg)
    place = flat.index(b"\xff\xc0") + 5
    flat[place : place + 2] = b"\0\0"
    compressed = bytearray(kinds()["palette.bmp"])
    compressed[30] = 1
    return {
        "no_bytes.jpg": b"",
        "text.jpg": b"no image",
        "zeros.png": bytes(1000),
        "cut_off.jpg": jpeg[: len(jpeg) // 2],
        "header_alone.jpg": jpeg[:30],
        "cut_off.png": kinds()["rgba.png"][:500],
        "no_rows.png": png_of_16_bits(np.zeros([0, 4, 3])),
        "no_columns.png": png_of_16_bits(np.zeros([4, 0, 3])),
        "no_rows.jpg": bytes(flat),
        "bits.bmp": encode(rgb.convert("1"), "BMP"),
        "compressed.bmp": bytes(compressed),
        "transparent.webp": encode(Image.new("RGBA", (9, 9), (1, 2, 3, 99)), "WEBP", lossless=True),
        "some.tif": encode(rgb, "TIFF"),
    }


@pytest.mark.slow
def test_file_that_is_no_image_costs_one_example_and_is_counted(tmp_path):
    for name, content in unreadable().items():
        (tmp_path / name).write_bytes(content)
    for name in ("vanishes.png", "whole.png", "secret.jpg"):
        (tmp_path / name).write_bytes(kinds()["rgb.jpg"])
    (tmp_path / "secret.jpg").chmod(0)
    source = load_source(DataConfig(dataset=f"folder:{tmp_path}"), "train")
    (tmp_path / "vanishes.png").unlink()
    bad = {*unreadable(), "vanishes.png"} | ({"secret.jpg"} if os.geteuid() else set())
    plan = BatchPlan(global_batch_size=source.num_examples)
    (batch,) = eval_dataset(source, EvalView(image_size=SIZE), plan=plan).as_numpy_iterator()
    assert (batch["bad_images"], batch["mask"].sum()) == (len(bad), source.num_examples - len(bad))
    assert {os.path.basename(name) for name in source.bad_image_names()} == bad
