"""Plots of a run as PNG: curves, points in two dimensions, confusion matrices."""

import io
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm, to_hex
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.ticker import MaxNLocator, NullLocator, PercentFormatter
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
Points = Sequence[tuple[int, float]]

# Name and colour of each curve of a plot.
CURVES = {
    "loss": {
        "train/contrast_loss": ("contrastive", "tab:blue"),
        "train/distill_loss": ("distillation", "tab:purple"),
        "train/supervised_loss": ("labels", "tab:orange"),
    },
    "accuracy": {
        "train/contrast_acc": ("contrastive", "tab:blue"),
        "train/teacher_agreement": ("as the teacher", "tab:purple"),
        "train/supervised_acc": ("labels, training", "tab:orange"),
        "eval/label_top_1_accuracy": ("labels, held out", "tab:green"),
    },
}
METHODS = {
    "finetune": "tab:blue",
    "supervised": "tab:orange",
    "distill": "tab:purple",
    "linear_eval": "tab:green",
    "raw_pixels": "tab:gray",
    "label_spreading": "tab:brown",
}
MAX_NAMED_CLASSES = 20
_FEW_POINTS = 12
# In inches.
_CURVES_SIZE, _MAP_SIZE, _MATRIX_SIZE, _EFFICIENCY_SIZE = (4.6, 3.1), (6.4, 5.2), (6.4, 5.6), (6.4, 4.4)
DPI = 160
_MAX_COMPONENTS = 50
_MAX_NAME = 24
_MIN_POINTS, _MIN_RANGE = 10, 1e-6
_WRITTEN_SHARE = 0.005
# Ten colours with two markers are easier to tell apart than twenty colours.
_MARKERS = {"o": "\N{BLACK CIRCLE}", "^": "\N{BLACK UP-POINTING TRIANGLE}"}


def plot_curves(what: str, scalars: Mapping[str, Points], chance: tuple[str, float] | None = None) -> bytes | None:
    """Draws the losses or the accuracies over the steps.

    Args:
        what: `loss` or `accuracy`.
        scalars: (step, value) pairs by tag; other tags are ignored.
        chance: label and value of a level to draw, None for none.

    Returns:
        A PNG; None if there are no such curves.
    """
    shown = {tag: look for tag, look in CURVES[what].items() if tag in scalars}
    if not shown:
        return None
    figure, axes = _axes(*_CURVES_SIZE)
    for tag, (label, colour) in shown.items():
        steps, values = zip(*scalars[tag], strict=True)
        marker = "o" if len(steps) < _FEW_POINTS else ""
        axes.plot(steps, values, label=label, color=colour, marker=marker, markersize=4)
    if chance is not None:
        axes.axhline(chance[1], label=chance[0], color="0.4", linestyle="--", linewidth=1)
    if what == "accuracy":
        axes.set_ylim(-0.02, 1.02)
        axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    _dress(axes, "step", what)
    return render(figure)


def why_not_projected(features: Floats) -> str | None:
    """Returns the reason why a map of features `[N, D]` would show nothing; None if there is none."""
    if len(features) < _MIN_POINTS:
        return "too few readable images"
    if features.shape[1] < 2:
        return "the output is a single number"
    if not np.isfinite(features).all():
        return "the representation of some images is not finite"
    is_same = np.ptp(features, axis=0).max() < _MIN_RANGE
    return "all images have the same representation, the network has collapsed" if is_same else None


def plot_label_efficiency(curves: Mapping[str, Sequence[tuple[int, Sequence[float]]]], what: str) -> bytes:
    """Draws accuracy against the number of labels, on a logarithmic axis.

    Args:
        curves: for each method, (labels per class, accuracies in [0, 1] by seed) pairs in ascending order. The
            line is the mean, the band the range.
        what: label of the accuracies.

    Returns:
        A PNG.
    """
    figure, axes = _axes(*_EFFICIENCY_SIZE)
    for number, (method, points) in enumerate(curves.items()):
        labels, values = [point[0] for point in points], [point[1] for point in points]
        colour = METHODS.get(method, f"C{number}")
        axes.plot(labels, [np.mean(v) for v in values], label=method, color=colour, marker="o", markersize=4)
        low, high = [min(v) for v in values], [max(v) for v in values]
        axes.fill_between(labels, low, high, color=colour, alpha=0.18, linewidth=0)
    axes.set_xscale("log")
    axes.set_xticks(labels, [str(number) for number in labels])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    _dress(axes, "labels of each class", what)
    return render(figure)


def project(features: Floats) -> Floats:
    """Returns features `[N, D]` in two dimensions, `[N, 2]`: by PCA to at most 50, then by t-SNE."""
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    components = min(_MAX_COMPONENTS, *features.shape)
    perplexity = min(30.0, (len(features) - 1) / 3)
    with threadpool_limits(1):  # Several threads that compete with TensorFlow's are up to 30 times slower.
        reduced = PCA(components, random_state=0).fit_transform(features)
        points: Floats = TSNE(perplexity=perplexity, random_state=0).fit_transform(reduced)
    return points


def class_looks(class_names: Sequence[str]) -> list[tuple[str, str, str]]:
    """Returns (sign, colour, name) of each class as `plot_points` draws it, for at most 20 classes."""
    signs = tuple(_MARKERS.values())
    return [(signs[k // 10], _colour(k), name) for k, name in enumerate(class_names)]


def plot_points(
    points: Floats, labels: NDArray[np.integer[Any]], num_classes: int, *, legend: Sequence[str] = ()
) -> bytes:
    """Draws points coloured by class.

    Args:
        points: `[N, 2]`.
        labels: int `[N]`; negative for none, which is drawn in grey.
        num_classes: number of classes; more than 20 have the colours of a rainbow.
        legend: names of at most 20 classes, written beside the points.

    Returns:
        A PNG.
    """
    figure, axes = _axes(*_MAP_SIZE)
    axes.set_axis_off()
    x, y = points.T
    axes.scatter(x[labels < 0], y[labels < 0], color="0.6", s=16, linewidths=0)
    if num_classes > MAX_NAMED_CLASSES:
        chosen = labels >= 0
        axes.scatter(x[chosen], y[chosen], c=labels[chosen], cmap="turbo", s=16, linewidths=0)
        return render(figure)
    shown = []
    for number in range(num_classes):
        chosen, marker = labels == number, tuple(_MARKERS)[number // 10]
        colour = _colour(number)
        shown.append(axes.scatter(x[chosen], y[chosen], color=colour, marker=marker, s=16, linewidths=0))
    if legend:
        _write_legend(axes, shown, legend)
    return render(figure)


def _write_legend(axes: Axes, shown: Sequence[Any], names: Sequence[str]) -> None:
    # Matplotlib omits names that begin with "_", and reads $...$ as a formula.
    legend = axes.legend(
        shown, ["?"] * len(shown), loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, fontsize="small"
    )
    for entry, name in zip(legend.get_texts(), drawn_names(names), strict=True):
        entry.set(text=name, parse_math=False)


def plot_confusion(counts: NDArray[np.integer[Any]], class_names: Sequence[str]) -> bytes:
    """Draws a confusion matrix, with each row as shares of its class.

    Args:
        counts: `[K, K]`, true classes as rows, predicted classes as columns.
        class_names: K names, written at the axes if there are at most 20.

    Returns:
        A PNG.
    """
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure, axes = _axes(*_MATRIX_SIZE)
    is_small = len(counts) <= MAX_NAMED_CLASSES
    # With many classes, most confusions are rare: the root makes shares of a few percent visible.
    norm = PowerNorm(1 if is_small else 0.5, 0, 1)
    image = axes.imshow(shares, cmap="Blues", norm=norm)
    axes.set(xlabel="taken for", ylabel="class")
    figure.colorbar(image, ax=axes, shrink=0.8, format=PercentFormatter(1))
    if is_small:
        _name_classes(axes, class_names)
        for (row, column), share in np.ndenumerate(shares):
            if share >= _WRITTEN_SHARE:
                colour, text = "white" if share > 0.5 else "black", f"{100 * share:.0f}"
                axes.text(column, row, text, ha="center", va="center", color=colour, fontsize="x-small")
    return render(figure)


def _name_classes(axes: Axes, class_names: Sequence[str]) -> None:
    names = drawn_names(class_names)
    turned = 0 if max(map(len, names)) <= 2 else 90
    axes.set_xticks(range(len(names)), names, rotation=turned, parse_math=False, fontsize="small")
    axes.set_yticks(range(len(names)), names, parse_math=False, fontsize="small")


def drawn_names(class_names: Sequence[str]) -> list[str]:
    """Returns class names for pictures: shortened, or numbers if the font lacks a letter."""
    names = [" ".join(name.split()) for name in class_names]
    names = [name if len(name) <= _MAX_NAME else f"{name[: _MAX_NAME - 1]}\N{HORIZONTAL ELLIPSIS}" for name in names]
    letters = get_font(findfont(FontProperties())).get_charmap()
    is_drawn = all(ord(letter) in letters for name in names for letter in name)
    return names if is_drawn else [str(number) for number in range(len(names))]


def _axes(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def _dress(axes: Axes, xlabel: str, ylabel: str) -> None:
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False, fontsize="small")


def _colour(number: int) -> str:
    return to_hex(colormaps["tab10"](number % 10))


def render(figure: Figure) -> bytes:
    """Returns a figure as PNG."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # A script that the font does not have.
        figure.savefig(buffer, format="png", dpi=DPI)
    return buffer.getvalue()
