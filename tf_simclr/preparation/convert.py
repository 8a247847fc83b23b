"""Conversion of image files to small upright JPEG or PNG, 8-bit RGB or grey.

Does not load TensorFlow, so that many worker processes start quickly.
"""

import io
import multiprocessing
import os
import signal
import threading
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
_JPEG = ("JPEG", "MPO")  # The latter has a second picture after the first, as some cameras write it.
_PLACE_OF_BIT_DEPTH = 24  # In a PNG: Pillow shows 16-bit RGB as RGB.


class Conversion(NamedTuple):
    """Settings of the conversion of an image.

    Attributes:
        short_side: Maximum of the shorter side in pixels; 0 keeps the size.
        quality: JPEG quality of images that are encoded again, 1 to 100.
        max_pixels: Images that declare more are not decoded.
    """

    short_side: int
    quality: int
    max_pixels: int


class Converted(NamedTuple):
    """An encoded image, or a problem of its file and no bytes."""

    image: bytes
    problem: str = ""


class ReadError(Exception):
    """A possibly intact image could not be read; a later attempt may succeed."""

    def __init__(self, path: str, problem: str):
        super().__init__(path, problem)  # The parent of a process makes its copy from these.
        self.path, self.problem = path, problem


def convert_files(paths: Sequence[str], conversion: Conversion) -> list[Converted]:
    """Converts the images of some files; see `convert_image`. Raises ReadError if the image is not the cause."""
    return [_convert_file(path, conversion) for path in paths]


def start_worker() -> None:
    """Makes a process of a pool ignore Ctrl-C, and end when its parent ends for any reason."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _convert_file(path: str, conversion: Conversion) -> Converted:
    try:
        with open(path, "rb") as file:
            return Converted(convert_image(file.read(), conversion))
    except UnidentifiedImageError:
        return Converted(b"", "is no JPEG, PNG, BMP, GIF, WebP, TIFF or PPM image")
    except FileNotFoundError as error:
        if not os.path.isdir(os.path.dirname(path) or os.curdir):
            raise ReadError(path, "its folder is gone") from error
        return Converted(b"", str(error.strerror))
    except MemoryError as error:
        raise ReadError(path, "memory ran out: use fewer --prepare_workers") from error
    except OSError as error:
        if error.errno is not None:  # System errors have a number. Pillow's errors about damage have none.
            raise ReadError(path, str(error.strerror)) from error
        return Converted(b"", _text(error))
    except Exception as error:  # Pillow raises errors of any type for damaged files.
        return Converted(b"", _text(error))


def _text(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def convert_image(encoded: bytes, conversion: Conversion) -> bytes:
    """Returns an image as JPEG or PNG, upright by its EXIF, 8-bit RGB or grey, within the requested size.

    An image that already fits is returned unchanged. Otherwise images of lossy formats become JPEG, others PNG.
    Only the first of several pictures in a file is kept. As in TensorFlow, transparency is dropped, and the higher 8
    of 16 bits are kept.

    Args:
        encoded: JPEG, PNG, BMP, GIF, WebP, TIFF or PPM.
        conversion: Settings of the conversion.

    Raises:
        Exception: If it has another format, is damaged or too large, or its pixels have no known range.
    """
    with warnings.catch_warnings():
        # Pillow has another limit, and warns about some damage; here damage is an error or ignored.
        warnings.simplefilter("ignore")
        with Image.open(io.BytesIO(encoded), formats=_FORMATS) as image:
            width, height = image.size
            if width * height > conversion.max_pixels:
                raise ValueError(f"declares {width}x{height} pixels, over the limit of {conversion.max_pixels}")
            if _load(image, encoded, conversion.short_side):
                return encoded
            return _encode(image, _is_lossy(image, encoded), conversion)


def _load(image: Image.Image, encoded: bytes, short_side: int) -> bool:
    """Decodes an image, which fails if it is damaged; returns whether its file can stay unchanged."""
    is_jpeg, is_small = image.format in _JPEG, not 0 < short_side < min(image.size)
    if not is_jpeg:
        image.load()  # EXIF may follow the pixels.
    has_8_bits = is_jpeg or (image.format == "PNG" and encoded[_PLACE_OF_BIT_DEPTH] == 8)
    is_opaque = image.mode in ("L", "RGB") and "transparency" not in image.info
    is_upright = image.getexif().get(ExifTags.Base.Orientation, 1) not in range(2, 9)
    stays = is_small and has_8_bits and is_opaque and is_upright
    if is_jpeg:
        # libjpeg decodes faster to a reduced size, down to an eighth, here at least twice the requested size.
        side = 1 if stays else 2 * short_side or max(image.size)
        image.draft(None, (side, side))
        image.load()
    return stays


def _encode(image: Image.Image, is_lossy: bool, conversion: Conversion) -> bytes:
    plain = _shrink(_to_8_bits(ImageOps.exif_transpose(image)), conversion.short_side)
    plain.info.clear()  # The metadata may be wrong now.
    file = io.BytesIO()
    plain.save(file, "JPEG" if is_lossy else "PNG", quality=conversion.quality)
    return file.getvalue()


def _to_8_bits(image: Image.Image) -> Image.Image:
    """Returns a grey image as 8-bit grey, and any other as RGB."""
    if image.mode[0] == "I":
        pixels = np.asarray(image)
        if pixels.min() < 0 or pixels.max() >= 2**16:
            raise ValueError("has pixels of more than 16 bits")
        return Image.fromarray((pixels // 2**8).astype(np.uint8))
    if image.mode == "F":
        raise ValueError("has floating-point pixels, whose range is unknown")
    return image.convert("L" if image.mode in ("1", "L", "LA") else "RGB")


def _shrink(image: Image.Image, short_side: int) -> Image.Image:
    short = min(image.size)
    if not 0 < short_side < short:
        return image
    width, height = (round(side * short_side / short) for side in image.size)
    return image.resize((width, height), Image.Resampling.LANCZOS)


def _is_lossy(image: Image.Image, encoded: bytes) -> bool:
    if image.format != "WEBP":
        return image.format in _JPEG
    place = 12
    while place + 8 <= len(encoded):  # From chunk to chunk.
        kind, length = encoded[place : place + 4], int.from_bytes(encoded[place + 4 : place + 8], "little")
        if kind in (b"VP8 ", b"VP8L"):
            return kind == b"VP8 "
        place += 8 + length + length % 2
    return False
