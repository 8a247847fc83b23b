"""Map of the features of a data set, by PCA and then t-SNE, as a picture."""

import contextlib
import logging
import os
import re

from tf_simclr.config import EmbedConfig, UserError, check
from tf_simclr.data import load_source
from tf_simclr.evaluation.features import compute_features, load_inference_network, sample_source
from tf_simclr.files import counted, delete_leftovers, reporting_write_errors, write_text
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
    path = os.path.expanduser(str(config.output))
    directory = os.path.dirname(path) or "."
    _check_place(config, path)
    with _reporting_write_errors(config):
        os.makedirs(directory, exist_ok=True)
    network = load_inference_network(str(config.checkpoint))
    network.check_vector(config.endpoint)
    source = sample_source(load_source(config.data, config.split, flag="split"), MAX_POINTS)
    rows = compute_features(network, config.endpoint, source, data=config.data, batch_size=config.eval_batch_size)
    reason = plots.why_not_projected(rows.features)
    if reason is not None:
        raise UserError(f"--output={path}: nothing to draw of {source.name}: {reason}.")
    class_names = (source.class_names or ()) if (rows.labels >= 0).any() else ()
    points = plots.project(rows.features)
    picture = plots.plot_points(points, rows.labels, len(class_names), legend=class_names)
    with _reporting_write_errors(config):
        delete_leftovers(directory, re.escape(os.path.basename(path)))
        write_text(path, picture)
    _LOG.info("Map of %s of %s, by PCA and then t-SNE: %s.", counted(len(points), "image"), source.name, path)


def _check_place(config: EmbedConfig, path: str) -> None:
    check("://" not in path, "output", path, "is not a path; write to a local file, then copy it.")
    fix = "exists already; use another name, or replace it with --overwrite=True."
    check(config.overwrite or not os.path.lexists(path), "output", path, fix)
    check(not os.path.isdir(path), "output", path, "is a directory; use another name.")


def _reporting_write_errors(config: EmbedConfig) -> contextlib.AbstractContextManager[None]:
    fix = "use a place that you may write to and that has room"
    return reporting_write_errors(f"--output={config.output}", fix)
