"""Encoded images: the size that a header declares, the limit on it, and refusals."""

import io
import re
import struct

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tf_simclr.images import decode as images
from tf_simclr.images import headers as image_headers

pytestmark = pytest.mark.stack

NO_IMAGE = "the image is no JPEG, PNG, GIF, BMP or WebP image, or its header is damaged"
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
        ("GIF", {"comment": b"x" * 1000, "transparency": 3}),
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


@pytest.mark.parametrize("content", [b"", b"B", b"hello, this is no image at all, despite its name"])
def test_declared_size_of_other_content_is_nothing(size, decode, content):
    assert size(content).numpy().tolist() == [0, 0]
    assert refusal(decode, content) == NO_IMAGE


def make_gif(*frames, screen=(8, 8), between=b"", table_bits=None, end=b";"):
    """A GIF of frames (width, height), each with a table of colours and two blocks that are no valid pixels."""
    flags = 0 if table_bits is None else 0x80 | (table_bits - 1)
    table = bytes(0 if table_bits is None else 3 * 2**table_bits)
    parts = [b"GIF89a", struct.pack("<HHBBB", *screen, flags, 0, 0), table]
    for width, height in frames:
        parts += [between, struct.pack("<cHHHHB", b",", 0, 0, width, height, flags), table, b"\x08"]
        parts += [bytes([200]), bytes(200), bytes([3]), b",!;", b"\0"]
    return b"".join(parts) + end


@pytest.mark.parametrize("table_bits", [None, 1, 8])
@pytest.mark.parametrize("between", [b"", b"!\xf9\4\0\0\0\0\0" + b"!\xfe\2,,\1;\0"])
@pytest.mark.parametrize("end", [b";", b"; and more", b""])
def test_declared_size_of_a_gif_is_that_of_all_its_frames(size, table_bits, between, end):
    """The decoder holds all frames, one below the other."""
    gif = make_gif((5, 700), (300, 6), table_bits=table_bits, between=between, end=end)
    assert size(gif).numpy().tolist() == [706, 300]


def test_gif_is_refused_by_its_frames_despite_its_screen(decode):
    message = refusal(decode, make_gif((14_000, 14_000)))
    assert message == "the image declares 14000x14000 pixels, over the limit of 100000000"
    assert "declares 4000x28000 pixels" in refusal(decode, make_gif(*[(4000, 4000)] * 7))
    assert "declares 65000x65001 pixels" in refusal(decode, make_gif((65_000, 1), (1, 65_000)))


@pytest.mark.parametrize(
    "gif",
    [
        make_gif(),
        make_gif((5, 7), end=b"\0,"),
        make_gif((5, 7), between=b"!\xfe\0"),  # The decoder reads on; others see the end of a block.
        make_gif()[:12],
    ],
    ids=["no frame", "something else", "an empty extension", "cut off"],
)
def test_gif_whose_frames_cannot_be_found_is_refused(decode, gif):
    assert refusal(decode, gif) == NO_IMAGE


def test_gif_of_too_many_blocks_is_refused(monkeypatch):
    monkeypatch.setattr(image_headers, "_MAX_BLOCKS", 9)
    gif = make_gif((5, 7), between=b"!\xfe\1x\0" * 2)  # 2 * 3 blocks, and 4 of the frame.
    assert images.declared_size(gif).numpy().tolist() == [0, 0]
    monkeypatch.setattr(image_headers, "_MAX_BLOCKS", 10)
    assert images.declared_size(gif).numpy().tolist() == [7, 5]


def test_declared_size_of_a_jpeg_with_segments_of_all_kinds(size):
    content = encode("JPEG")
    more = b"\xff\xff\xfe\0\x0b\xff\xc0\0\x11\x08\0\1\0\1" + b"\xff\xd0\xff\1" + b"\xff\xec\0\0"
    jpeg = content[:2] + more + content[2:]
    assert tf.io.extract_jpeg_shape(jpeg).numpy().tolist() == [37, 53, 3]
    assert size(jpeg).numpy().tolist() == [37, 53]


def test_jpeg_with_a_damaged_header_is_refused(size, decode):
    jpeg = encode("JPEG")
    for content in (b"\xff\xd8\xff" + b"x" * 60, jpeg[:80], jpeg[: jpeg.index(b"\xff\xc0") + 6]):
        assert size(content).numpy().tolist() == [0, 0]
        with pytest.raises(tf.errors.InvalidArgumentError):  # TensorFlow's message, without a name.
            decode(content)


def test_image_with_a_name_is_refused_by_name():
    named = tf.function(lambda image: images.decode_image(image, name="the image"), autograph=False)
    assert refusal(named, b"\xff\xd8\xff") == NO_IMAGE


@pytest.mark.parametrize("kind", ["JPEG", "GIF"])
def test_decoded_image_has_the_declared_size(size, kind):
    """With any two bytes of the header changed."""
    rng, content, decoded = np.random.default_rng(0), encode(kind), 0
    for _ in range(200):
        changed = bytearray(content)
        for place in rng.integers(2 if kind == "JPEG" else 6, 200 if kind == "JPEG" else 20, 2):
            changed[place] = rng.integers(256)
        declared = size(bytes(changed)).numpy().tolist()
        try:
            shape = tf.io.decode_image(bytes(changed), expand_animations=False).shape[:2].as_list()
        except tf.errors.InvalidArgumentError:
            continue
        assert declared in (shape, [0, 0])
        decoded += declared == shape
    assert decoded > 20


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
    ("kind", "width", "height"), [("JPEG", 10_001, 10_000), ("PNG", 2**32 - 1, 2**32 - 1), ("PNG", 2**31 - 1, 1)]
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
    assert refusal(check, bomb("JPEG", 10_000, 10_001), "number 3").startswith("number 3 declares 10000x10001")


def test_image_that_is_cut_off_fails_in_the_decoder(decode):
    content = encode("PNG")
    with pytest.raises(tf.errors.InvalidArgumentError):
        decode(content[: len(content) // 2])
