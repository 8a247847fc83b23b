"""Lines about the training and evaluation data, which every start prints."""

from collections.abc import Iterable

import numpy as np

from tf_simclr.data.source import Source
from tf_simclr.files import counted, listed, one_line


def describe_source(source: Source) -> str:
    """Returns a source's name, number of images, classes, and number of images without a label.

    The smallest and the largest number of images in a class are left out if the labels are not in memory.
    """
    text = f"{source.name}: {counted(source.num_examples, 'image')}"
    if source.class_names is None:
        return f"{text} without labels."
    text += f", {counted(len(source.class_names), 'class')} ({listed(source.class_names)})"
    if source.labels is not None:
        counts = np.bincount(source.labels[source.labels >= 0], minlength=len(source.class_names))
        least, greatest = int(counts.min()), int(counts.max())
        text += f", {least if least == greatest else f'{least} to {greatest}'} of each class"
    return f"{text}, {source.num_unlabelled} without a label." if source.num_unlabelled else f"{text}."


def data_lines(train: Source | None, evaluated: Source | None = None, *, why_not: str | None = None) -> list[str]:
    """Returns the lines about the data of a run.

    Args:
        train: The images to learn from; None if they are not opened.
        evaluated: The images to evaluate on; None for none.
        why_not: The reason for no evaluation, for the lines.
    """
    lines = [] if train is None else [f"Training images: {describe_source(train)}"]
    if why_not is not None:
        lines.append(f"Training without an evaluation: {why_not}.")
    elif evaluated is not None:
        lines.append(f"Evaluation images: {describe_source(evaluated)}")
    return [one_line(line) for line in (*lines, *ignored_lines([train, evaluated]))]


def ignored_lines(sources: Iterable[Source | None]) -> list[str]:
    """Returns the notes on ignored files of some sources, without repetitions."""
    return list(dict.fromkeys(line for source in sources if source is not None for line in source.ignored))
