"""A map of the features of a data set: PCA, then t-SNE, as a picture."""

import contextlib
import logging
import os
import re

import tensorflow as tf

from tf_simclr.config import EmbedConfig, UserError, check
from tf_simclr.data import Source, load_source
from tf_simclr.evaluation.features import FeaturePass, Features, image_names, load_inference_network, sample_source
from tf_simclr.files import counted, delete_leftovers, first_line, write_text
from tf_simclr.rendering import plots

_LOG = logging.getLogger("tf_simclr")
MAX_POINTS = 5000


def show_features(config: EmbedConfig) -> None:
    """Writes the map of the features, whole or not at all.

    Of more than 5000 images it shows a random choice, always the same.

    Args:
        config: network, data set and output.

    Raises:
        UserError: a flag, a file or the data is wrong.
    """
    output = os.path.expanduser(str(config.output))
    _check_place(config, output)
    network = load_inference_network(str(config.checkpoint))
    network.check_endpoint(config.endpoint)
    shape = list(network.shapes[config.endpoint])
    check(
        len(shape) == 1,
        "endpoint",
        config.endpoint,
        f"is no vector but {shape} for one image; name one such as default, or write features to a file.",
    )
    source = sample_source(load_source(config.data, config.split, flag="split"), MAX_POINTS)
    names = image_names(config.data, source)
    features = FeaturePass(
        network, config.endpoint, source, data=config.data, batch_size=config.eval_batch_size, names=names
    )
    with contextlib.closing(features):
        rows = features.read(0, source.num_examples)
    if rows.unreadable:
        _LOG.info("Left out %s.", counted(len(rows.unreadable), "unreadable image"))
    if not len(rows.features):
        raise UserError(f"--dataset={config.data.dataset}: no image of {source.name} can be read.")
    try:
        delete_leftovers(os.path.dirname(output) or ".", re.escape(os.path.basename(output)))
        _write_map(output, rows, source)
    except (OSError, tf.errors.OpError) as error:
        raise _unwritable(config, error) from error


def _check_place(config: EmbedConfig, output: str) -> None:
    check("://" not in output, "output", output, "is not a path; write to a local file, then copy it.")
    if os.path.lexists(output):
        check(
            config.overwrite,
            "output",
            output,
            "exists already; use another name, or replace it with --overwrite=True.",
        )
        check(not os.path.isdir(output), "output", output, "is a directory; use another name.")
    try:
        os.makedirs(os.path.dirname(output) or ".", exist_ok=True)
    except OSError as error:
        raise _unwritable(config, error) from error


def _unwritable(config: EmbedConfig, error: Exception) -> UserError:
    return UserError(
        f"--output={config.output}: cannot be written ({first_line(error)}); use a place that you may write to "
        "and that has room."
    )


def _write_map(path: str, rows: Features, source: Source) -> None:
    reason = plots.why_not_projected(rows.features)
    if reason is not None:
        raise UserError(f"--output={path}: nothing to draw of {source.name}: {reason}.")
    class_names = (source.class_names or ()) if (rows.labels >= 0).any() else ()
    points = plots.project(rows.features)
    write_text(path, plots.plot_points(points, rows.labels, len(class_names), legend=class_names))
    images = counted(len(points), "image")
    _LOG.info("Map of %s of %s, by PCA and then t-SNE: %s.", images, source.name, path)
