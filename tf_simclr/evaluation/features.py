"""One named output of a trained network for the images of a split, each of which goes through it once."""

import hashlib
import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tf_simclr.augment import EvalView
from tf_simclr.config import DataConfig, UserError, check
from tf_simclr.data import BatchPlan, Source, check_bad_images, eval_dataset
from tf_simclr.data.sources import FOLDER_PREFIX
from tf_simclr.evaluation.feature_batches import FeatureBatch, feature_batches, make_feature_function
from tf_simclr.files import first_line, shown_path
from tf_simclr.interop.saved_models import load_module, read_image_size
from tf_simclr.runs.networks import find_checkpoint, is_saved_model, load_network
from tf_simclr.terminal.memory import device_memory, reporting_lack_of_memory
from tf_simclr.terminal.progress import Progress
from tf_simclr.training.memory_estimate import check_need, features_need

_LOG = logging.getLogger("tf_simclr")
_WHAT_FITS = "name the directory of a run, a checkpoint in it, or a SavedModel with named outputs"


class Network(NamedTuple):
    """A network in inference mode.

    Attributes:
        path: of its checkpoint or SavedModel.
        call: takes images `[B, S, S, 3]` in [0, 1], returns named outputs `[B, ...]`.
        shapes: of the outputs of one image, by name.
        image_size: S.
        fingerprint: of the weights.
        whole_side: whether it sees all of the shorter side of an image, instead of what an evaluation crops.
    """

    path: str
    call: Callable[[tf.Tensor], Mapping[str, tf.Tensor]]
    shapes: dict[str, tuple[int, ...]]
    image_size: int
    fingerprint: str
    whole_side: bool = False

    def check_endpoint(self, endpoint: str) -> None:
        """Raises UserError unless the network has this output."""
        fix = f"{self.path} has no such output; use one of {', '.join(self.shapes)}."
        check(endpoint in self.shapes, "endpoint", endpoint, fix)


def load_inference_network(path: str) -> Network:
    """Loads the network that `--checkpoint` names.

    Args:
        path: the directory of a run, a checkpoint in it, or a SavedModel with named outputs.

    Raises:
        UserError: it is something else, or damaged.
    """
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
    call, outputs = load_module(path, size, flag="checkpoint", fix=_WHAT_FITS)
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

    return digest(read(path) for path in paths if tf.io.gfile.exists(path))


def digest(parts: Iterable[bytes]) -> str:
    """Returns a fingerprint of a row of byte strings."""
    hashed = hashlib.sha256()
    for part in parts:
        hashed.update(len(part).to_bytes(8, "big") + part)
    return hashed.hexdigest()


class Features(NamedTuple):
    """What a network makes of some images, in the order of their source.

    Attributes:
        features: float32 `[n, ...]`, of the readable images.
        labels: int32 `[n]`, -1 where there is none.
        positions: int64 `[n]`, the numbers of these images in the source.
        unreadable: names of the other images.
    """

    features: np.ndarray
    labels: np.ndarray
    positions: np.ndarray
    unreadable: list[str]


class FeaturePass:
    """Takes the images of a split through a network, in parts, and shows how far it is; close it at the end.

    Args:
        network: the network.
        endpoint: which of its outputs.
        source: the images.
        data: what they are read from, and how many of them may be unreadable.
        batch_size: images in a batch.
        names: of all images of the source; None for those that the source gives them.
    """

    def __init__(
        self,
        network: Network,
        endpoint: str,
        source: Source,
        *,
        data: DataConfig,
        batch_size: int,
        names: Sequence[str] | None = None,
    ):
        self._function = make_feature_function(network.call, endpoint)
        self._shape = network.shapes[endpoint]
        self._source, self._data = source, data
        self._batch_size = batch_size
        self._view = EvalView(image_size=network.image_size, whole_side=network.whole_side)
        self._plan = BatchPlan(global_batch_size=min(batch_size, source.num_examples))
        self._name = source.example_name if names is None else names.__getitem__
        self._num_seen = self._num_bad = 0
        self._progress: Progress | None = None
        devices = [device.name for device in tf.config.list_logical_devices("GPU")] or ["CPU"]
        check_need(
            features_need(network.image_size, network.shapes.values(), self._plan.global_batch_size),
            device_memory(devices[:1]),
            flag="eval_batch_size",
            value=batch_size,
            fix="use a smaller one",
        )

    def skip(self, num_images: int, unreadable: Sequence[str]) -> None:
        """Counts images that an earlier pass has seen, and those of them that it could not read."""
        self._num_seen += num_images
        self._add_bad_images(unreadable)

    def read(self, start: int, stop: int) -> Features:
        """Computes the features of the images from `start` to `stop` - 1.

        Raises:
            UserError: they cannot be read, or too many of them, or a batch does not fit into memory.
        """
        with reporting_lack_of_memory(f"--eval_batch_size={self._batch_size}", "use a smaller one"):
            return self._read(start, stop)

    def _read(self, start: int, stop: int) -> Features:
        self._progress = self._progress or Progress(self._num_seen, self._source.num_examples)
        table = _Table(stop - start, self._shape)
        part = self._source.part(start, stop)
        try:
            for batch in feature_batches(self._function, eval_dataset(part, self._view, plan=self._plan)):
                names = [self._name(start + row) for row in table.add(batch)]
                table.unreadable += names
                self._add_bad_images(names)
                self._num_seen += np.count_nonzero(batch.positions < part.num_examples)
                self._check_bad_images()
                self._progress.update(self._num_seen)
        except (tf.errors.DataLossError, tf.errors.NotFoundError) as error:
            raise UserError(
                f"--dataset={self._data.dataset}: cannot be read any more ({first_line(error)}); fix its files "
                "and start the same command again."
            ) from error
        return table.features(start)

    def _add_bad_images(self, names: Sequence[str]) -> None:
        self._num_bad += len(names)
        for name in names:
            self._source.add_bad_image(name)

    def _check_bad_images(self) -> None:
        fraction = self._data.max_bad_image_fraction
        check_bad_images(self._source, num_bad=self._num_bad, num_seen=self._num_seen, max_fraction=fraction)

    def close(self) -> None:
        """Leaves the progress bar, so that what is printed next starts on a line of its own."""
        if self._progress is not None:
            self._progress.close()


def image_names(data: DataConfig, source: Source) -> list[str]:
    """Returns the name of each image: in a folder, the path from there on."""
    names = map(source.example_name, range(source.num_examples))
    if not data.dataset.startswith(FOLDER_PREFIX):
        return list(names)
    folder = shown_path(os.path.join(os.path.expanduser(data.dataset.removeprefix(FOLDER_PREFIX)), ""))
    return [name.removeprefix(folder) for name in names]


def sample_source(source: Source, most: int) -> Source:
    """Returns a source of at most so many examples: a random choice, always the same."""
    if source.num_examples <= most:
        return source
    chosen = np.random.default_rng(0).choice(source.num_examples, most, replace=False)
    return source.subset(np.sort(chosen), source.name)


class _Table:
    """Rows in the order of the source, in whatever order they come.

    Args:
        count: of the images.
        shape: of the features of one image.
    """

    def __init__(self, count: int, shape: Sequence[int]):
        self._features = np.zeros([count, *shape], np.float32)
        self._labels = np.zeros([count], np.int32)
        self._is_readable = np.zeros([count], bool)
        self.unreadable: list[str] = []

    def add(self, batch: FeatureBatch) -> np.ndarray:
        """Puts the rows of a batch where they belong; returns the numbers of its unreadable images."""
        rows = batch.positions[batch.is_readable]
        self._features[rows] = batch.features[batch.is_readable]
        self._labels[rows] = batch.labels[batch.is_readable]
        self._is_readable[rows] = True
        others = batch.positions[~batch.is_readable]
        return others[others < len(self._labels)]

    def features(self, first: int) -> Features:
        """Returns the rows of all readable images, of which the first row has the number `first`."""
        kept = np.flatnonzero(self._is_readable)
        if len(kept) == len(self._labels):
            return Features(self._features, self._labels, first + kept, self.unreadable)  # Without a copy.
        return Features(self._features[kept], self._labels[kept], first + kept, self.unreadable)
