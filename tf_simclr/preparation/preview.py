"""Picture of the first views of a training run."""

import dataclasses
import logging
import os
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tf_simclr.config import ExperimentConfig, PreviewConfig, UserError, check
from tf_simclr.data import BatchPlan, Source, step_views
from tf_simclr.data.rows import batch_rows
from tf_simclr.data.source import NUM_CANDIDATES
from tf_simclr.files import counted, delete_leftovers, first_line, write_text
from tf_simclr.rendering.view_grid import most_that_fit, plot_views
from tf_simclr.terminal.entry import entry_point
from tf_simclr.training.assembly import Assembly, assemble
from tf_simclr.training.batches import training_batches, training_view

_LOG = logging.getLogger("tf_simclr")


class FirstImages(NamedTuple):
    """The first images of a training run.

    Attributes:
        originals: uint8, each [H, W, 1 or 3] in its own size.
        names: Names of the images.
        views: float32 [n, views, S, S, 3].
    """

    originals: Sequence[NDArray[np.uint8]]
    names: Sequence[str]
    views: NDArray[np.float32]


@entry_point
def preview(config: PreviewConfig) -> None:
    """Writes the picture: a row for each image, with the original and its views.

    Raises:
        UserError: The data, the output or a setting does not fit.
    """
    path = os.path.expanduser(str(config.output))
    if os.path.lexists(path) and not config.overwrite:
        raise UserError(f"--output={config.output}: exists already; replace it with --overwrite=True.")
    _check_size(config)
    run = _run(config)
    assembly = assemble(run, num_replicas=1)
    first = first_images(run, assembly, num_images=config.preview_images, num_views=config.preview_views)
    lowest, highest = first.views.min(), first.views.max()
    if lowest < 0 or highest > 1:
        _LOG.warning("Values reach from %.3f to %.3f, out of [0, 1]: the picture cuts them off.", lowest, highest)
    else:
        _LOG.info("All values are in [0, 1]: %.3f to %.3f.", lowest, highest)
    title = _describe(run, assembly.source)
    _write(str(config.output), path, plot_views(first.originals, first.views, first.names, title))
    views, images = counted(first.views.shape[1], "view"), counted(len(first.views), "image")
    _LOG.info("Wrote %s of %s: %s", views, images, path)


def _check_size(config: PreviewConfig) -> None:
    """Raises UserError if the picture would be too large to draw."""
    size = config.model.image_size
    for name, most in zip(("preview_images", "preview_views"), most_that_fit(size), strict=True):
        number = getattr(config, name)
        check(number <= most, name, number, f"of --image_size={size} a picture has the place for {most}; use fewer.")


def first_images(run: ExperimentConfig, assembly: Assembly, *, num_images: int, num_views: int = 0) -> FirstImages:
    """Returns the first images that a run trains on, with its views of them.

    The rows of a run do not depend on its batch size. These are its first rows; for distillation, the first of
    those from all images.

    Args:
        run: Configuration of the run.
        assembly: Assembly of the run.
        num_images: Number of images; fewer if the data has fewer.
        num_views: Number of views of each, 0 for the run's own number. Extra views have the same distribution.
    """
    source = assembly.source
    num_images = min(num_images, source.num_examples)
    # Pretraining needs at least two. With several sources, the batch size determines the source of each row.
    batch_size = max(2, num_images) if len(run.data.sources) == 1 else run.train.train_batch_size
    plan = BatchPlan(global_batch_size=batch_size)
    shown = dataclasses.replace(run, train=dataclasses.replace(run.train, train_batch_size=batch_size))
    on_device = run.augment.augment_on == "device"
    batches = training_batches(
        shown,
        dataclasses.replace(assembly, labelled=None, num_labelled=0),
        plan,
        num_views=num_views or run.train.num_views,
        first_step=0,
        on_device=on_device,
    )
    batch = step_views(source, training_view(run, on_device=on_device))(next(iter(batches)))
    originals, names = _originals(source, plan, run.train.seed, min(num_images, batch_size))
    views = np.stack([view.numpy() for view in batch["views"]], axis=1)
    return FirstImages(originals, names, views[: len(names)])


def _originals(source: Source, plan: BatchPlan, seed: int, count: int) -> tuple[list[NDArray[np.uint8]], list[str]]:
    """Returns the first images, unchanged, and their names."""
    rows = batch_rows(
        source,
        source.train_examples(seed, plan, 0),
        batch_size=count,
        # Images of several sizes fit into one batch only if they are encoded.
        crop=lambda image, position: tf.io.encode_png(image),
        num_candidates=NUM_CANDIDATES,
    )
    batch = next(iter(rows))
    images = batch["images"]
    if images.dtype == tf.string:
        images = [tf.io.decode_png(image) for image in images]
    keys = [int(example["keys"][0]) for example in source.train_examples(seed, plan, 0).take(count)]
    names = [
        f"instead of {source.example_name(key)}, unreadable" if bad else source.example_name(key)
        for key, bad in zip(keys, batch["bad"].numpy(), strict=True)
    ]
    return [image.numpy() for image in images], names


def _run(config: PreviewConfig) -> ExperimentConfig:
    names = [field.name for field in dataclasses.fields(ExperimentConfig) if hasattr(config, field.name)]
    # Nothing is trained, so a batch may be larger than the data.
    return ExperimentConfig(mode="eval", **{name: getattr(config, name) for name in names})


def _describe(run: ExperimentConfig, source: Source) -> str:
    view = training_view(run)
    parts = [f"crop of {view.crop_min_area:g} of the area or more"]
    parts += ["flip"] * view.use_flip
    parts += [f"rotation up to {view.random_rotation:g} degrees"] * (view.random_rotation > 0)
    parts += [f"colour jitter {view.color_jitter_strength:g}, grey"] * (view.color_jitter_strength > 0)
    parts += ["blur"] * view.use_blur
    what = f"{run.train.train_mode}, {source.name}, {view.image_size} px, seed {run.train.seed}"
    return f"{what}\n{', '.join(parts)}"


def _write(output: str, path: str, png: bytes) -> None:
    directory, name = os.path.split(path)
    try:
        os.makedirs(directory or ".", exist_ok=True)
        delete_leftovers(directory or ".", re.escape(name))
        write_text(path, png)
    except (OSError, tf.errors.OpError) as error:
        raise UserError(
            f"--output={output}: cannot be written ({first_line(error)}); name a file in a directory that you may "
            "write to."
        ) from error
