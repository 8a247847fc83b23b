"""Conversion of each kind of image for record files."""

import io
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tests.support.runs import REPOSITORY
from tf_simclr.preparation.convert import Conversion, convert_files, convert_image

AS_IS = Conversion(short_side=0, quality=95, max_pixels=10**6)
ORIENTATION = 0x0112


def gradient(height=12, width=16):
    """RGB, smooth enough for JPEG to keep it, and different in all orientations."""
    y, x = np.mgrid[:height, :width]
    channels = (40 + 160 * x / width, 40 + 160 * y / height, 40 + 80 * (x / width + y / height))
    return np.stack(channels, axis=-1).astype(np.uint8)


PIXELS = gradient()
GREY = PIXELS[..., 0]
GREYS = np.repeat(GREY[..., np.newaxis], 3, axis=-1)


def encode(image, extension, **options):
    file = io.BytesIO()
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    picture.save(file, extension, **options)
    return file.getvalue()


def oriented(number):
    exif = Image.Exif()
    exif[ORIENTATION] = number
    return exif


def shown(encoded):
    return tf.io.decode_image(encoded, channels=3, expand_animations=False).numpy()


def size_of(encoded):
    return Image.open(io.BytesIO(encoded)).size


def convert(encoded, short_side=0):
    return convert_image(encoded, AS_IS._replace(short_side=short_side))


TURNS = {
    2: np.fliplr,
    3: lambda x: np.rot90(x, 2),
    4: np.flipud,
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: np.rot90(x, -1),
    7: lambda x: np.rot90(x, 2).swapaxes(0, 1),
    8: np.rot90,
}
PLAIN = {
    "JPEG": encode(PIXELS, "JPEG"),
    "grey JPEG": encode(GREY, "JPEG"),
    "progressive JPEG": encode(PIXELS, "JPEG", progressive=True),
    "upright JPEG": encode(PIXELS, "JPEG", exif=oriented(1)),
    "JPEG with a second picture": encode(PIXELS, "MPO", save_all=True, append_images=[Image.fromarray(GREYS)]),
    "PNG": encode(PIXELS, "PNG"),
    "grey PNG": encode(GREY, "PNG"),
}


@pytest.mark.parametrize("kind", PLAIN)
def test_plain_image_is_copied_byte_for_byte(kind):
    for short_side in (0, 12):
        assert convert(PLAIN[kind], short_side) == PLAIN[kind]


PALETTE = Image.fromarray(PIXELS // 64 * 64).quantize(16)
RGBA = np.concatenate([PIXELS, GREY[..., np.newaxis]], axis=-1)
SIXTEEN = GREY.astype(np.uint16) * 256 + 99
LOSSLESS = {
    "palette PNG": (encode(PALETTE, "PNG"), np.array(PALETTE.convert("RGB"))),
    "PNG with alpha": (encode(RGBA, "PNG"), PIXELS),
    "grey PNG with alpha": (encode(np.stack([GREY, GREY], -1), "PNG"), GREYS),
    "PNG with a transparent colour": (encode(PIXELS, "PNG", transparency=(1, 2, 3)), PIXELS),
    "black and white PNG": (encode(Image.fromarray(GREY > 99), "PNG"), 255 * (GREYS > 99)),
    "16-bit grey PNG": (encode(SIXTEEN, "PNG"), GREYS),
    "16-bit RGB PNG": (tf.io.encode_png(PIXELS.astype(np.uint16) * 256 + 200).numpy(), PIXELS),
    "16-bit TIFF": (encode(SIXTEEN, "TIFF"), GREYS),
    "TIFF": (encode(PIXELS, "TIFF"), PIXELS),
    "turned TIFF": (encode(PIXELS, "TIFF", exif=oriented(6)), TURNS[6](PIXELS)),
    "BMP": (encode(PIXELS, "BMP"), PIXELS),
    "PPM": (encode(PIXELS, "PPM"), PIXELS),
    "WebP without loss": (encode(PIXELS, "WEBP", lossless=True), PIXELS),
    "animated GIF": (
        encode(PALETTE, "GIF", save_all=True, append_images=[Image.fromarray(GREY)]),
        np.array(PALETTE.convert("RGB")),
    ),
} | {f"orientation {n}": (encode(PIXELS, "PNG", exif=oriented(n)), turn(PIXELS)) for n, turn in TURNS.items()}


@pytest.mark.parametrize("kind", LOSSLESS)
def test_other_image_without_loss_becomes_a_plain_png(kind):
    encoded, expected = LOSSLESS[kind]
    converted = convert(encoded)
    np.testing.assert_array_equal(shown(converted), expected)
    assert converted.startswith(b"\x89PNG")
    assert convert(converted) == converted  # It is plain now.


LOSSY = {
    "CMYK JPEG": (encode(Image.fromarray(PIXELS).convert("CMYK"), "JPEG", quality=95), PIXELS),
    "turned JPEG": (encode(PIXELS, "JPEG", quality=95, exif=oriented(6)), np.rot90(PIXELS, -1)),
    "WebP": (encode(PIXELS, "WEBP", quality=95), PIXELS),
    "WebP with notes": (encode(PIXELS, "WEBP", quality=95, exif=oriented(1)), PIXELS),
}


@pytest.mark.parametrize("kind", LOSSY)
def test_other_image_with_loss_becomes_a_plain_jpeg(kind):
    encoded, expected = LOSSY[kind]
    converted = convert(encoded)
    assert converted.startswith(b"\xff\xd8\xff")
    assert np.abs(shown(converted).astype(int) - expected).mean() < 3
    assert convert(converted) == converted


@pytest.mark.parametrize("extension", ["JPEG", "PNG"])
def test_large_image_is_resized_by_its_shorter_side(extension):
    """The value of a pixel in a gradient follows from its place. JPEG is decoded at half the size first."""
    converted = convert(encode(gradient(160, 240), extension, quality=95), short_side=40)
    assert size_of(converted) == (60, 40)
    y, x = np.mgrid[:40, :60]
    expected = np.stack([40 + 160 * (x + 0.5) / 60, 40 + 160 * (y + 0.5) / 40], axis=-1)
    inside = (slice(4, -4), slice(4, -4))
    assert np.abs(shown(converted)[inside][..., :2] - expected[inside]).max() < 5


@pytest.mark.parametrize(
    ("width", "height", "exif", "expected"),
    [
        (31, 20, None, (31, 20)),
        (31, 21, None, (30, 20)),
        (21, 63, None, (20, 60)),
        (40, 60, oriented(6), (30, 20)),
        (1, 500, None, (1, 500)),
        (10_000, 40, None, (5_000, 20)),
    ],
)
def test_image_is_reduced_to_the_asked_size_and_never_enlarged(width, height, exif, expected):
    options = {} if exif is None else {"exif": exif}
    assert size_of(convert(encode(gradient(height, width), "JPEG", **options), short_side=20)) == expected


def problem_of(tmp_path, content, max_pixels=10**6):
    path = tmp_path / "image"
    if content is not None:
        path.write_bytes(content)
    ((image, problem),) = convert_files([str(path)], AS_IS._replace(max_pixels=max_pixels))
    assert image == b""
    return problem


def test_unreadable_image_has_a_problem(tmp_path):
    assert problem_of(tmp_path, None) == "No such file or directory"
    for content in (b"", b"text", b"GIF8", b"%!PS-Adobe-3.0 EPSF-3.0\n"):
        assert problem_of(tmp_path, content) == "is no JPEG, PNG, BMP, GIF, WebP, TIFF or PPM image"
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    for extension, options in (("JPEG", {}), ("JPEG", {"progressive": True}), ("PNG", {}), ("TIFF", {})):
        whole = encode(noise, extension, **options)
        assert problem_of(tmp_path, whole[: len(whole) * 3 // 4]), extension
    assert "64x64 pixels, over the limit of 4000" in problem_of(tmp_path, encode(noise, "PNG"), max_pixels=4000)
    assert "floating-point" in problem_of(tmp_path, encode(GREY.astype(np.float32), "TIFF"))
    assert "16 bits" in problem_of(tmp_path, encode(GREY.astype(np.int32) * 2**16, "TIFF"))


def test_working_processes_load_no_tensorflow():
    program = "import sys, tf_simclr.preparation.convert; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, check=False).returncode == 0
