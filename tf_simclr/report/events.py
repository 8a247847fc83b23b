"""Reader of the TensorBoard event files of a stage."""

from typing import NamedTuple

import tensorflow as tf
from tensorboard.backend.event_processing.directory_watcher import DirectoryDeletedError
from tensorboard.backend.event_processing.event_accumulator import TENSORS, EventAccumulator

_VIEWS = "train/views"


class Events(NamedTuple):
    """Curves and a picture.

    Attributes:
        scalars: (step, value) pairs by tag, in the order of the steps.
        views: the PNG of the example views, None if there is none.
        views_width: width of that picture in pixels.
    """

    scalars: dict[str, list[tuple[int, float]]]
    views: bytes | None = None
    views_width: int = 0


def read_events(directory: str) -> Events:
    """Reads the event files of a directory, which may have none."""
    reader = EventAccumulator(directory, {TENSORS: 0})  # 0 keeps every step.
    try:
        reader.Reload()
    except DirectoryDeletedError:
        return Events({})
    scalars, views, width = {}, None, 0
    for tag in reader.Tags()["tensors"]:
        values = [(event.step, tf.make_ndarray(event.tensor_proto)) for event in reader.Tensors(tag)]
        if tag == _VIEWS:
            width, _, views = values[0][1][:3]
        elif reader.SummaryMetadata(tag).plugin_data.plugin_name == "scalars":
            # A resumed run may have written some steps twice.
            scalars[tag] = sorted({step: float(value) for step, value in values}.items())
    return Events(scalars, views, int(width))
