"""Picture of augmented views beside their original images, as PNG."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from tf_simclr.rendering.plots import DPI, render

Bytes = NDArray[np.uint8]

# In pixels.
_LEAST_SIDE, _GAP, _NAME_HEIGHT, _TITLE_HEIGHT, _NAME_LETTER = 160, 8, 24, 96, 8
_MAX_SIDE = 2**16 - 1  # Some supported versions of matplotlib cannot draw larger pictures.


def most_that_fit(size: int) -> tuple[int, int]:
    """Returns the maximum number of images, and of views of each, in a picture with `size` x `size` views."""
    cell = size * _scale(size) + _GAP
    return (_MAX_SIDE - _TITLE_HEIGHT) // (cell + _NAME_HEIGHT), (_MAX_SIDE - _GAP) // cell - 1


def plot_views(originals: Sequence[Bytes], views: NDArray[np.floating[Any]], names: Sequence[str], title: str) -> bytes:
    """Draws a row for each image: the original, then its views, pixel by pixel.

    Args:
        originals: uint8, each `[H, W, 1 or 3]`; drawn at the size of the views.
        views: float `[n, views, S, S, 3]`; values are clipped to [0, 1].
        names: names of the images.
        title: title of the picture.

    Returns:
        A PNG.
    """
    num_images, num_views, size = views.shape[:3]
    scale = _scale(size)
    pixels = np.rint(np.clip(views, 0, 1) * 255).astype(np.uint8).repeat(scale, axis=2).repeat(scale, axis=3)
    cell = size * scale + _GAP
    row_height = cell + _NAME_HEIGHT
    width, height = _GAP + (1 + num_views) * cell, _TITLE_HEIGHT + num_images * row_height
    # A little more, because matplotlib rounds down.
    figure = Figure(figsize=((width + 0.1) / DPI, (height + 0.1) / DPI), dpi=DPI)
    _write(figure, _GAP, height - _GAP, title, size=8, wrap=True)
    most_letters = width // _NAME_LETTER
    for row, (original, name) in enumerate(zip(originals, names, strict=True)):
        bottom = height - _TITLE_HEIGHT - (row + 1) * row_height + _GAP
        shown = name if len(name) <= most_letters else f"...{name[3 - most_letters :]}"
        _write(figure, _GAP, bottom + row_height - 2 * _GAP, shown, size=7)
        for column, image in enumerate([_fit(original, size * scale), *pixels[row]]):
            figure.figimage(image, _GAP + column * cell, bottom)
    return render(figure)


def _scale(size: int) -> int:
    """Returns the integer magnification of views of `size` pixels, which keeps pixels unmixed."""
    return -(-_LEAST_SIDE // size)


def _fit(image: Bytes, side: int) -> Bytes:
    """Returns an image with its longer side at most `side` pixels; a small one is enlarged by an integer factor."""
    times = max(1, side // max(image.shape[:2]))
    picture = Image.fromarray(np.broadcast_to(image, (*image.shape[:2], 3)).repeat(times, 0).repeat(times, 1))
    picture.thumbnail((side, side))
    return np.asarray(picture)


def _write(figure: Figure, left: float, top: float, text: str, *, size: float, wrap: bool = False) -> None:
    """Writes text (any file name) below a point in pixels from the lower left."""
    x, y = left / figure.bbox.width, top / figure.bbox.height
    figure.text(x, y, text, fontsize=size, va="top", wrap=wrap, parse_math=False)
