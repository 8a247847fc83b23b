"""Features of a data set, into files: what one named output of a network says of every image."""

import contextlib
import hashlib
import logging
import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf
import tqdm

from tf_simclr.augment import EvalView
from tf_simclr.checkpoint import find_checkpoint, is_saved_model, load_network
from tf_simclr.config import DataConfig, EmbedConfig, UserError, check
from tf_simclr.data import BatchPlan, Source, check_bad_images, eval_dataset, load_source
from tf_simclr.data.folder_source import shown_path
from tf_simclr.data.sources import FOLDER_PREFIX
from tf_simclr.evaluate import FeatureBatch, feature_batches, make_feature_function
from tf_simclr.feature_files import FeatureFiles, Rows
from tf_simclr.mismatch import listed
from tf_simclr.modules import load_module, read_image_size
from tf_simclr.run_directory import first_line

_LOG = logging.getLogger("tf_simclr")
_WHAT_FITS = "name the directory of a run, a checkpoint in it, or a SavedModel with named outputs"
# A file is held in memory until it is written.
_MAX_BYTES = 2**32
_SECONDS_BETWEEN_LINES = 10


class Network(NamedTuple):
    """A network in inference mode.

    Attributes:
        path: of its checkpoint or SavedModel.
        call: takes images `[B, S, S, 3]` in [0, 1], returns named outputs `[B, ...]`.
        shapes: of the outputs of one image, by name.
        image_size: S.
        fingerprint: of the weights.
    """

    path: str
    call: Callable[[tf.Tensor], Mapping[str, tf.Tensor]]
    shapes: dict[str, tuple[int, ...]]
    image_size: int
    fingerprint: str


def embed(config: EmbedConfig) -> None:
    """Writes features, labels and names of all readable images of a split; goes on where it was stopped.

    Args:
        config: network, data set and output.

    Raises:
        UserError: anything the user can mend.
    """
    files = FeatureFiles(str(config.output), overwrite=config.overwrite)
    network = _load_network(str(config.checkpoint))
    _check_endpoint(config.endpoint, network)
    source = load_source(config.data, config.split, flag="split")
    _check_memory(config, network, source.num_examples)
    names = _names(config.data, source)
    shape = list(network.shapes[config.endpoint])
    contents = {
        "dataset": _absolute(config.data.dataset),
        "split": config.split,
        "endpoint": config.endpoint,
        "shard_size": config.shard_size,
        "weights": network.fingerprint,
        "images": _digest(_image_states(names, source.files)),
        "prepared_data": source.prepared_in,
        "image_size": network.image_size,
        "class_names": None if source.class_names is None else list(source.class_names),
        "dtype": "float32",
        "shape": shape,
    }
    files.open(contents, num_images=source.num_examples, checkpoint=network.path)
    _LOG.info(
        "Embedding %s: %d images of %d px, output %s %s of %s.",
        source.name,
        source.num_examples,
        network.image_size,
        config.endpoint,
        shape,
        network.path,
    )
    try:
        _embed_missing(config, network, source, names, files)
    except (tf.errors.DataLossError, tf.errors.NotFoundError) as error:
        raise UserError(
            f"--dataset={config.data.dataset}: cannot be read any more ({first_line(error)}); mend its files and "
            "start the same command again: it goes on from there."
        ) from error
    _report(source, files)


def _embed_missing(
    config: EmbedConfig, network: Network, source: Source, names: Sequence[str], files: FeatureFiles
) -> None:
    """Writes the files that are not finished, one after the other."""
    function = make_feature_function(network.call, config.endpoint)
    view = EvalView(image_size=network.image_size)
    # All files have the same batches: nothing is compiled twice, and what a file holds depends on no other.
    batch_size = min(config.eval_batch_size, config.shard_size, source.num_examples)
    plan = BatchPlan(global_batch_size=batch_size)
    missing, unreadable = files.missing, files.unreadable
    num_seen = source.num_examples - sum(shard.stop - shard.start for shard in missing)
    for name in unreadable:
        source.add_bad_image(name)
    with contextlib.closing(_Progress(num_seen, source.num_examples)) as progress:
        for shard in missing:
            table = _Table(names[shard.start : shard.stop], network.shapes[config.endpoint])
            part = source.part(shard.start, shard.stop)
            for batch in feature_batches(function, eval_dataset(part, view, plan=plan)):
                new = table.add(batch)
                for name in new:
                    source.add_bad_image(name)
                unreadable += new
                num_seen += np.count_nonzero(batch.positions < part.num_examples)
                fraction = config.data.max_bad_image_fraction
                check_bad_images(source, num_bad=len(unreadable), num_seen=num_seen, max_fraction=fraction)
                progress.update(num_seen)
            files.write(shard, table.rows(), table.unreadable)


class _Table:
    """The rows of one file, in the order of the source, in whatever order they come.

    Args:
        names: of the images, n of them.
        shape: of the features of one image.
    """

    def __init__(self, names: Sequence[str], shape: Sequence[int]):
        self._names = names
        self._features = np.zeros([len(names), *shape], np.float32)
        self._labels = np.zeros([len(names)], np.int32)
        self._is_readable = np.zeros([len(names)], bool)
        self.unreadable: list[str] = []

    def add(self, batch: FeatureBatch) -> list[str]:
        """Puts the rows of a batch where they belong; returns the names of its unreadable images."""
        rows = batch.positions[batch.is_readable]
        self._features[rows] = batch.features[batch.is_readable]
        self._labels[rows] = batch.labels[batch.is_readable]
        self._is_readable[rows] = True
        others = batch.positions[~batch.is_readable]
        unreadable = [self._names[row] for row in others if row < len(self._names)]
        self.unreadable += unreadable
        return unreadable

    def rows(self) -> Rows:
        """Returns the rows of all readable images."""
        kept = np.flatnonzero(self._is_readable)
        names = [self._names[row] for row in kept]
        if len(kept) == len(self._names):
            return Rows(self._features, self._labels, names)  # Without a copy.
        return Rows(self._features[kept], self._labels[kept], names)


class _Progress:
    """Shows a bar on a terminal, and a plain line now and then elsewhere."""

    def __init__(self, done: int, total: int):
        self._first, self._total = done, total
        self._start = self._last = time.monotonic()
        is_terminal = sys.stderr.isatty()
        bar = (
            tqdm.tqdm(total=total, initial=done, unit=" images", dynamic_ncols=True) if is_terminal else None
        )
        self._bar = bar

    def update(self, done: int) -> None:
        """Shows that so many images are done."""
        now = time.monotonic()
        if self._bar is not None:
            self._bar.update(done - self._bar.n)
        elif now - self._last >= _SECONDS_BETWEEN_LINES:
            self._last = now
            rate = (done - self._first) / (now - self._start)
            left = tqdm.tqdm.format_interval((self._total - done) / rate)
            _LOG.info("%d/%d images | %.0f images/s | %s left", done, self._total, rate, left)

    def close(self) -> None:
        """Leaves the bar, so that what is printed next starts on a line of its own."""
        if self._bar is not None:
            self._bar.close()


def _load_network(path: str) -> Network:
    if path.startswith(("https://", "http://")):
        raise UserError(
            f"--checkpoint={path}: is not on this machine; download the module, and name its folder. Take it from "
            "those you trust: a SavedModel is a program."
        )
    path = os.path.expanduser(path)
    if is_saved_model(path):
        return _load_saved_model(path)
    path = find_checkpoint(path, "checkpoint")
    network = load_network(path, "checkpoint")
    size = network.config.image_size

    def call(images: tf.Tensor) -> Mapping[str, tf.Tensor]:
        return network.forward(images, training=False).endpoints

    shapes = _shapes(call(tf.zeros([1, size, size, 3])))
    return Network(path, call, shapes, size, _digest_files(f"{path}.index"))


def _load_saved_model(path: str) -> Network:
    size = read_image_size(path, "checkpoint")
    call, outputs = load_module(path, size, flag="checkpoint", mend=_WHAT_FITS)
    shapes = _shapes(outputs) if isinstance(outputs, Mapping) else {}
    if not shapes:
        raise UserError(f"--checkpoint={path}: gives no named outputs; {_WHAT_FITS}.")
    files = (os.path.join(path, name) for name in ("saved_model.pb", "variables/variables.index"))
    return Network(path, call, shapes, size, _digest_files(*files))


def _shapes(outputs: Mapping[str, tf.Tensor]) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of what is one array of numbers for one image."""
    return {
        name: tuple(value.shape[1:])
        for name, value in sorted(outputs.items())
        if isinstance(value, tf.Tensor) and value.dtype.is_floating and value.shape[:1] == [1]
    }


def _digest_files(*paths: str) -> str:
    """Returns a fingerprint of weights: the index of a checkpoint has a checksum of each tensor."""

    def read(path: str) -> bytes:
        with tf.io.gfile.GFile(path, "rb") as file:
            return file.read()

    return _digest(read(path) for path in paths if tf.io.gfile.exists(path))


def _digest(parts: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()


def _check_endpoint(endpoint: str, network: Network) -> None:
    check(
        endpoint in network.shapes,
        "endpoint",
        endpoint,
        f"{network.path} has no such output; use one of {', '.join(network.shapes)}.",
    )


def _check_memory(config: EmbedConfig, network: Network, num_images: int) -> None:
    shape = network.shapes[config.endpoint]
    bytes_per_image = 4 * math.prod(shape)
    most = _MAX_BYTES // bytes_per_image
    check(
        min(num_images, config.shard_size) <= most,
        "shard_size",
        config.shard_size,
        f"{config.endpoint} {list(shape)} takes {bytes_per_image / 2**20:.1f} MiB an image, and a file is held in "
        f"memory until it is written; use at most {most}.",
    )


def _absolute(dataset: str) -> str:
    """Returns the name of a data set, that of a folder from wherever it is named."""
    prefix, found, folder = dataset.partition(FOLDER_PREFIX)
    return FOLDER_PREFIX + os.path.abspath(os.path.expanduser(folder)) if found and not prefix else dataset


def _names(data: DataConfig, source: Source) -> list[str]:
    """Returns the name of each image: in a folder, the path from there on."""
    names = map(source.example_name, range(source.num_examples))
    if not data.dataset.startswith(FOLDER_PREFIX):
        return list(names)
    folder = shown_path(os.path.join(os.path.expanduser(data.dataset.removeprefix(FOLDER_PREFIX)), ""))
    return [name.removeprefix(folder) for name in names]


def _image_states(names: Iterable[str], files: Iterable[str]) -> Iterator[bytes]:
    """Yields what differs where the images do: other images may have come under the same names."""
    for name in names:
        yield name.encode()
    for path in files:
        try:
            state = os.stat(path)
        except OSError:
            yield b""
        else:
            yield f"{state.st_size} {state.st_mtime_ns}".encode()


def _report(source: Source, files: FeatureFiles) -> None:
    shards, unreadable = files.shards, source.bad_image_names()
    where = shards[0].name if len(shards) == 1 else f"{shards[0].name} to {shards[-1].name}"
    if unreadable:
        _LOG.info("%d unreadable images were left out: %s.", len(unreadable), listed(list(unreadable)))
    _LOG.info("Wrote the features of %d images: %s.", files.num_rows, where)
