"""Encoded images: the size that a header declares, the limit on it, what is refused."""

import io
import re
import struct

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tf_simclr import images

PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (37, 53, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def size():
    return tf.function(images.declared_size, input_signature=[tf.TensorSpec([], tf.string)], autograph=False)


@pytest.fixture(scope="module")
def decode():
    return tf.function(images.decode_image, input_signature=[tf.TensorSpec([], tf.string)], autograph=False)


def encode(kind, picture=PICTURE, **options):
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def refusal(function, *arguments):
    with pytest.raises(tf.errors.InvalidArgumentError) as error:
        function(*arguments)
    return re.search(r"assertion failed: \[(.*)\]", str(error.value))[1]


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("JPEG", {}),
        ("JPEG", {"progressive": True, "exif": b"Exif\0\0" + bytes(500)}),
        ("PNG", {}),
        ("GIF", {}),
        ("BMP", {}),
        ("WEBP", {}),
        ("WEBP", {"lossless": True}),
        ("WEBP", {"exif": b"Exif\0\0"}),
    ],
)
def test_declared_size_is_read_from_the_header(size, kind, options):
    assert size(encode(kind, **options)).numpy().tolist() == [37, 53]


def test_declared_size_of_a_bitmap_that_is_stored_from_the_top(size):
    bitmap = bytearray(encode("BMP"))
    bitmap[22:26] = struct.pack("<i", -37)
    assert size(bytes(bitmap)).numpy().tolist() == [37, 53]


@pytest.mark.parametrize(
    "content", [b"", b"BM"[:1], b"hello, this is no image at all, whatever its name says"]
)
def test_declared_size_of_what_is_no_image_is_nothing(size, decode, content):
    assert size(content).numpy().tolist() == [0, 0]
    assert refusal(decode, content) == "the image is no JPEG, PNG, GIF, BMP or WebP image"


@pytest.mark.parametrize("kind", ["PNG", "BMP"])
def test_decoding_gives_the_pixels(decode, kind):
    np.testing.assert_array_equal(decode(encode(kind)), np.asarray(PICTURE))


def bomb(kind, width, height):
    """A small file that declares a large image."""
    content = bytearray(encode(kind))
    if kind == "JPEG":
        place = content.index(b"\xff\xc0") + 5
        content[place : place + 4] = struct.pack(">HH", height, width)
    else:
        content[16:24] = struct.pack(">II", width, height)
    return bytes(content)


@pytest.mark.parametrize(
    ("kind", "width", "height"),
    [
        ("JPEG", 10_001, 10_000),
        ("JPEG", 65_500, 65_500),
        ("PNG", 2**32 - 1, 2**32 - 1),
        ("PNG", 2**31 - 1, 1),
    ],
)
def test_image_that_declares_too_many_pixels_is_refused_before_decoding(decode, kind, width, height):
    message = refusal(decode, bomb(kind, width, height))
    assert message == f"the image declares {width}x{height} pixels, over the limit of 100000000"


def test_image_of_the_largest_size_passes_the_check():
    @tf.function(input_signature=[tf.TensorSpec([], tf.string)] * 2, autograph=False)
    def check(encoded, name):
        with tf.control_dependencies([images.check_size(encoded, name)]):
            return tf.constant(True)

    assert check(bomb("JPEG", 10_000, 10_000), "")
    assert refusal(check, bomb("JPEG", 10_000, 10_001), "number 3").startswith(
        "number 3 declares 10000x10001"
    )


def test_image_that_is_cut_off_fails_in_the_decoder(decode):
    content = encode("PNG")
    with pytest.raises(tf.errors.InvalidArgumentError):
        decode(content[: len(content) // 2])
