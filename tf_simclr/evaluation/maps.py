"""What the features of a data set look like: a picture of them, or files for TensorBoard's projector."""

import contextlib
import logging
import math
import os
import re
import shutil
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from tf_simclr.augment import EvalView
from tf_simclr.config import EmbedConfig, UserError, check
from tf_simclr.data import BatchPlan, Source, eval_dataset, load_source
from tf_simclr.evaluation.features import FeaturePass, Features, image_names, load_inference_network, sample_source
from tf_simclr.files import counted, delete_leftovers, first_line, temporary_name, write_text
from tf_simclr.rendering import plots

_LOG = logging.getLogger("tf_simclr")
# A browser moves as many points with ease.
MAX_POINTS = 5000
# Of the one picture that holds all images, and of one of them, in pixels.
_MAX_SPRITE, _MAX_TILE = 4096, 64
_TENSOR, _METADATA, _SPRITE, _CONFIG = "tensor.tsv", "metadata.tsv", "sprite.png", "projector_config.pbtxt"


def show_features(config: EmbedConfig) -> None:
    """Writes a picture (`.png`) or a directory for TensorBoard (`.projector`), whole or not at all.

    Of more than 5000 images a random choice is shown, always the same.

    Args:
        config: network, data set and output.

    Raises:
        UserError: anything the user can mend.
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
        if output.endswith(".png"):
            _write_map(output, rows, source)
        else:
            own_names = [names[position] for position in rows.positions]
            tile = min(network.image_size, _MAX_TILE, _MAX_SPRITE // _num_columns(len(own_names)))
            images = _small_images(source, tile, config.eval_batch_size)[rows.positions]
            _write_projector(output, rows, source, endpoint=config.endpoint, names=own_names, images=images)
            _LOG.info("%s of %s: tensorboard --logdir=%s", counted(len(images), "image"), source.name, output)
    except (OSError, tf.errors.OpError) as error:
        raise _unwritable(config, error) from error


def _check_place(config: EmbedConfig, output: str) -> None:
    check("://" not in output, "output", output, "is not a path; write to a local file, then copy it.")
    is_map = output.endswith(".png")
    if os.path.lexists(output):
        check(
            config.overwrite,
            "output",
            output,
            "exists already; use another name, or replace it with --overwrite=True.",
        )
        own = not os.path.isdir(output) if is_map else _is_projector(output)
        check(own, "output", output, "is none that this program has written; use another name.")
    try:
        os.makedirs(os.path.dirname(output) or ".", exist_ok=True)
    except OSError as error:
        raise _unwritable(config, error) from error


def _is_projector(path: str) -> bool:
    """Returns whether a directory has nothing but our files, so that it may be replaced."""
    own = {_TENSOR, _METADATA, _SPRITE, _CONFIG}
    return os.path.isdir(path) and not os.path.islink(path) and set(os.listdir(path)) <= own


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


def _write_projector(
    directory: str,
    rows: Features,
    source: Source,
    *,
    endpoint: str,
    names: Sequence[str],
    images: np.ndarray,
) -> None:
    from tensorboard.plugins import projector

    temporary = temporary_name(directory)
    os.makedirs(temporary)
    try:
        np.savetxt(os.path.join(temporary, _TENSOR), rows.features, fmt="%.6g", delimiter="\t")
        with open(os.path.join(temporary, _METADATA), "w", encoding="utf-8") as file:
            file.writelines(_metadata(rows.labels, names, source.class_names))
        with open(os.path.join(temporary, _SPRITE), "wb") as file:
            file.write(tf.io.encode_png(tile_images(images)).numpy())
        description = projector.ProjectorConfig()
        embedding = description.embeddings.add(tensor_name=endpoint, tensor_path=_TENSOR, metadata_path=_METADATA)
        embedding.sprite.image_path = _SPRITE
        embedding.sprite.single_image_dim.extend(images.shape[1:3])
        projector.visualize_embeddings(temporary, description)
        if os.path.isdir(directory):
            shutil.rmtree(directory)  # Which has our files alone.
        os.rename(temporary, directory)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _metadata(labels: np.ndarray, names: Sequence[str], class_names: Sequence[str] | None) -> list[str]:
    """Returns the lines of a table with class and name; TensorBoard knows no quotes."""

    def line(*cells: str) -> str:
        return "\t".join(" ".join(cell.split()) for cell in cells) + "\n"

    classes = ["" if label < 0 or class_names is None else class_names[label] for label in labels]
    return [line("class", "name"), *map(line, classes, names)]


def _small_images(source: Source, size: int, batch_size: int) -> np.ndarray:
    """Returns all images as a network of this size would see them, uint8 `[N, size, size, 3]`."""
    images = np.zeros([source.num_examples, size, size, 3], np.uint8)
    plan = BatchPlan(global_batch_size=min(batch_size, source.num_examples))
    for batch in eval_dataset(source, EvalView(image_size=size), plan=plan):
        positions = batch["position"].numpy()
        is_row = positions < source.num_examples
        images[positions[is_row]] = np.rint(255 * batch["images"].numpy()[is_row])
    return images


def tile_images(images: np.ndarray) -> np.ndarray:
    """Returns all images in one, row by row, as TensorBoard expects it.

    Args:
        images: uint8 `[N, S, S, 3]`.

    Returns:
        Uint8 `[rows * S, columns * S, 3]`, where columns is the root of N, rounded up; black at the end.
    """
    count, size = images.shape[:2]
    columns = _num_columns(count)
    num_rows = -(-count // columns)
    padded = np.zeros([num_rows * columns, size, size, 3], np.uint8)
    padded[:count] = images
    grid = padded.reshape(num_rows, columns, size, size, 3).swapaxes(1, 2)
    return grid.reshape(num_rows * size, columns * size, 3)


def _num_columns(count: int) -> int:
    return math.isqrt(max(count - 1, 0)) + 1
