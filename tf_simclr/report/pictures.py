"""Pictures of a run as PNG: curves, and points in two dimensions."""

import io
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator, PercentFormatter

Points = Sequence[tuple[int, float]]

# Name and colour of each curve.
LOSSES = {
    "train/contrast_loss": ("contrastive", "tab:blue"),
    "train/distill_loss": ("distillation", "tab:purple"),
    "train/supervised_loss": ("labels", "tab:orange"),
}
ACCURACIES = {
    "train/contrast_acc": ("contrastive", "tab:blue"),
    "train/teacher_agreement": ("as the teacher", "tab:purple"),
    "train/supervised_acc": ("labels, training", "tab:orange"),
    "eval/label_top_1_accuracy": ("labels, held out", "tab:green"),
}
METHODS = {"finetune": "tab:blue", "supervised": "tab:orange", "distill": "tab:purple"}
MAX_NAMED_CLASSES = 20
_FEW_POINTS = 12
# In inches.
_CURVES_SIZE, _MAP_SIZE, _EFFICIENCY_SIZE = (4.6, 3.1), (6.4, 5.2), (6.4, 4.4)
_MAX_COMPONENTS = 50
# Ten colours with two markers are easier to tell apart than twenty colours.
_MARKERS = {"o": "\N{BLACK CIRCLE}", "^": "\N{BLACK UP-POINTING TRIANGLE}"}


def plot_losses(scalars: Mapping[str, Points], chance: tuple[str, float] | None) -> bytes | None:
    """Draws the losses over the steps.

    Args:
        scalars: (step, value) pairs by tag; those that are no losses are left out.
        chance: label and value of a level to draw, None for none.

    Returns:
        A PNG; None where there are no losses.
    """
    figure, axes = _axes(*_CURVES_SIZE)
    if not _plot_lines(axes, scalars, LOSSES):
        return None
    if chance is not None:
        axes.axhline(chance[1], label=chance[0], color="0.4", linestyle="--", linewidth=1)
    return _finish_curves(figure, axes, "loss")


def plot_accuracies(scalars: Mapping[str, Points]) -> bytes | None:
    """Draws the accuracies over the steps; see `plot_losses`."""
    figure, axes = _axes(*_CURVES_SIZE)
    if not _plot_lines(axes, scalars, ACCURACIES):
        return None
    axes.set_ylim(-0.02, 1.02)
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    return _finish_curves(figure, axes, "accuracy")


def plot_label_efficiency(curves: Mapping[str, Sequence[tuple[int, Sequence[float]]]], what: str) -> bytes:
    """Draws accuracy against the number of labels, which is logarithmic.

    Args:
        curves: by method (number of labels a class, accuracies in [0, 1] by seed) pairs, in ascending order. The
            line goes through their means, the band from the lowest to the highest.
        what: the label of the accuracies.

    Returns:
        A PNG.
    """
    figure, axes = _axes(*_EFFICIENCY_SIZE)
    for method, points in curves.items():
        labels, values = [point[0] for point in points], [point[1] for point in points]
        colour = METHODS[method]
        axes.plot(labels, [np.mean(v) for v in values], label=method, color=colour, marker="o", markersize=4)
        low, high = [min(v) for v in values], [max(v) for v in values]
        axes.fill_between(labels, low, high, color=colour, alpha=0.18, linewidth=0)
    axes.set_xscale("log")
    axes.set_xticks(labels, [str(number) for number in labels])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    _dress(axes, "labels of each class", what)
    return _render(figure)


def project(features: np.ndarray) -> np.ndarray:
    """Returns features `[N, D]` in two dimensions, `[N, 2]`: by PCA to at most 50, then by t-SNE."""
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    components = min(_MAX_COMPONENTS, *features.shape)
    perplexity = min(30.0, (len(features) - 1) / 3)
    with threadpool_limits(1):  # Several threads beside those of TensorFlow are up to 30 times slower.
        reduced = PCA(components, random_state=0).fit_transform(features)
        return TSNE(perplexity=perplexity, random_state=0).fit_transform(reduced)


def class_looks(class_names: Sequence[str]) -> list[tuple[str, str, str]]:
    """Returns (sign, colour, name) of each class as `plot_points` draws it, for at most 20 classes."""
    signs = tuple(_MARKERS.values())
    return [(signs[k // 10], _colour(k), name) for k, name in enumerate(class_names)]


def plot_points(points: np.ndarray, labels: np.ndarray, num_classes: int) -> bytes:
    """Draws points coloured by class.

    Args:
        points: `[N, 2]`.
        labels: int `[N]`; negative for none, which is drawn in grey.
        num_classes: with more than 20 the colours are those of a rainbow.

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
        return _render(figure)
    for number in range(num_classes):
        chosen, marker = labels == number, tuple(_MARKERS)[number // 10]
        axes.scatter(x[chosen], y[chosen], color=_colour(number), marker=marker, s=16, linewidths=0)
    return _render(figure)


def _axes(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def _plot_lines(axes: Axes, scalars: Mapping[str, Points], looks: Mapping[str, tuple[str, str]]) -> bool:
    """Draws the curves that `looks` names; returns whether there are any."""
    shown = [tag for tag in looks if tag in scalars]
    for tag in shown:
        label, colour = looks[tag]
        steps, values = zip(*scalars[tag], strict=True)
        marker = "o" if len(steps) < _FEW_POINTS else ""
        axes.plot(steps, values, label=label, color=colour, marker=marker, markersize=4)
    return bool(shown)


def _finish_curves(figure: Figure, axes: Axes, what: str) -> bytes:
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    _dress(axes, "step", what)
    return _render(figure)


def _dress(axes: Axes, xlabel: str, ylabel: str) -> None:
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False, fontsize="small")


def _colour(number: int) -> str:
    return to_hex(colormaps["tab10"](number % 10))


def _render(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=160)
    return buffer.getvalue()
