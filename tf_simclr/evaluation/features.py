"""Named outputs of trained networks for the images of a split. Each image goes through the network once."""

import contextlib
import hashlib
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, cast

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tf_simclr.augment import EvalView
from tf_simclr.config import DataConfig, UserError, check
from tf_simclr.data import BatchPlan, Source, check_bad_images, eval_dataset
from tf_simclr.data.sources import FOLDER_PREFIX
from tf_simclr.files import counted, first_line, listed, shown_path
from tf_simclr.interop.saved_models import load_module, read_image_size
from tf_simclr.runs.networks import find_checkpoint, is_saved_model, load_network
from tf_simclr.terminal.memory import device_memory, reporting_lack_of_memory
from tf_simclr.terminal.progress import Progress
from tf_simclr.training.memory_estimate import check_need, features_need

_LOG = logging.getLogger("tf_simclr")
_FIX = "name the directory of a run, a checkpoint in it, or a SavedModel with named outputs"


class Network(NamedTuple):
    """A network in inference mode.

    Attributes:
        path: path of its checkpoint or SavedModel.
        call: takes images `[B, S, S, 3]` in [0, 1], returns named outputs `[B, ...]`.
        shapes: shape of each output for one image, by name.
        image_size: S.
        fingerprint: fingerprint of the weights.
        whole_side: whether it sees the whole shorter side of an image, instead of the crop of an evaluation.
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

    def check_vector(self, endpoint: str) -> None:
        """Raises UserError unless the network has this output, and it is a vector for one image."""
        self.check_endpoint(endpoint)
        vectors = [name for name, shape in self.shapes.items() if len(shape) == 1]
        fix = f"is no vector but {list(self.shapes[endpoint])} for one image; use one of {', '.join(vectors)}."
        check(endpoint in vectors, "endpoint", endpoint, fix)

    def run_directory(self, flag: str, example: str) -> str:
        """Returns the directory of its run, for results if `--flag` is not given.

        Raises:
            UserError: the network is a SavedModel.
        """
        if is_saved_model(self.path):
            raise UserError(
                f"--{flag}: not given, and a SavedModel is no directory of a run; name a place for the results, such "
                f"as --{flag}={example}."
            )
        return os.path.dirname(self.path)


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
    call, outputs = load_module(path, size, flag="checkpoint", fix=_FIX)
    shapes = _shapes(outputs) if isinstance(outputs, Mapping) else {}
    if not shapes:
        raise UserError(f"--checkpoint={path}: gives no named outputs; {_FIX}.")
    files = (os.path.join(path, name) for name in ("saved_model.pb", "variables/variables.index"))
    return Network(path, call, shapes, size, _digest_files(*files))


def _shapes(outputs: Mapping[str, tf.Tensor]) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of the outputs that are one array of numbers for one image."""
    return {
        name: tuple(value.shape[1:])
        for name, value in sorted(outputs.items())
        if isinstance(value, tf.Tensor) and value.dtype.is_floating and value.shape[:1] == [1]
    }


def _digest_files(*paths: str) -> str:
    """Returns a fingerprint of weights: the index of a checkpoint has a checksum of each tensor."""

    def read(path: str) -> bytes:
        with tf.io.gfile.GFile(path, "rb") as file:
            return cast(bytes, file.read())

    return digest(read(path) for path in paths if tf.io.gfile.exists(path))


def digest(parts: Iterable[bytes]) -> str:
    """Returns a fingerprint of a sequence of byte strings."""
    hashed = hashlib.sha256()
    for part in parts:
        hashed.update(len(part).to_bytes(8, "big") + part)
    return hashed.hexdigest()


def make_feature_function(
    network: Callable[[tf.Tensor], Mapping[str, tf.Tensor]], endpoint: str
) -> Callable[[tf.Tensor], tf.Tensor]:
    """Returns a compiled function from images `[B, S, S, 3]` in [0, 1] to one named output, as float32."""
    function: Callable[[tf.Tensor], tf.Tensor] = tf.function(
        lambda images: tf.cast(network(images)[endpoint], tf.float32), autograph=False
    )
    return function


class FeatureBatch(NamedTuple):
    """The features of one batch.

    Attributes:
        features: `[B, ...]`.
        labels: `[B]`, -1 for none.
        positions: `[B]`, the number of each example in its source.
        is_readable: `[B]`; false also for rows that fill up the batch.
    """

    features: NDArray[np.float32]
    labels: NDArray[np.int32]
    positions: NDArray[np.int64]
    is_readable: NDArray[np.bool_]


def feature_batches(function: Callable[[tf.Tensor], tf.Tensor], dataset: tf.data.Dataset) -> Iterator[FeatureBatch]:
    """Computes the features of a data set, batch by batch.

    Args:
        function: from `make_feature_function`.
        dataset: batches, from `data.eval_dataset`.
    """
    for batch in dataset:
        is_readable = batch["mask"].numpy() > 0
        labels = batch["labels"].numpy() if "labels" in batch else np.full(is_readable.shape, -1, np.int32)
        yield FeatureBatch(function(batch["images"]).numpy(), labels, batch["position"].numpy(), is_readable)


def extract_features(
    network: Callable[..., Mapping[str, tf.Tensor]], dataset: tf.data.Dataset
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Computes the representation h of every readable image of a data set.

    Args:
        network: takes images `[B, S, S, 3]` in [0, 1], returns a dictionary of named outputs.
        dataset: batches, from `data.eval_dataset`.

    Returns:
        Features `[N, ...]`, and labels `[N]`, -1 for none.
    """
    function = make_feature_function(lambda images: network(images, training=False), "default")
    batches = list(feature_batches(function, dataset))
    features = np.concatenate([batch.features[batch.is_readable] for batch in batches])
    return features, np.concatenate([batch.labels[batch.is_readable] for batch in batches])


class Features(NamedTuple):
    """The features of some images, in the order of their source.

    Attributes:
        features: `[n, ...]`, of the readable images.
        labels: `[n]`, -1 for none.
        positions: `[n]`, the numbers of these images in the source.
        unreadable: names of the other images.
    """

    features: NDArray[np.float32]
    labels: NDArray[np.int32]
    positions: NDArray[np.int64]
    unreadable: list[str]


class FeaturePass:
    """Takes the images of a split through a network, in parts, and shows the progress; close it at the end.

    Args:
        network: the network.
        endpoint: the name of the output.
        source: the images.
        data: the data set, and the share of its images that may be unreadable.
        batch_size: number of images in a batch.
        names: names of all images of the source; None for its own names.
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

    def count(self, num_images: int, unreadable: Sequence[str]) -> None:
        """Counts images, also those of an earlier pass.

        Args:
            num_images: number of images.
            unreadable: names of the unreadable ones among them.
        """
        self._num_seen += num_images
        self._num_bad += len(unreadable)
        for name in unreadable:
            self._source.add_bad_image(name)

    def read(self, start: int, stop: int) -> Features:
        """Computes the features of the images from `start` to `stop` - 1.

        Raises:
            UserError: they cannot be read, or too many of them, or a batch does not fit into memory.
        """
        with reporting_lack_of_memory(f"--eval_batch_size={self._batch_size}", "use a smaller one"):
            try:
                return self._read(start, stop)
            except (tf.errors.DataLossError, tf.errors.NotFoundError) as error:
                raise UserError(
                    f"--dataset={self._data.dataset}: cannot be read any more ({first_line(error)}); fix its files "
                    "and start the same command again."
                ) from error

    def _read(self, start: int, stop: int) -> Features:
        self._progress = self._progress or Progress(self._num_seen, self._source.num_examples)
        part = self._source.part(start, stop)
        features = np.zeros([part.num_examples, *self._shape], np.float32)
        labels = np.zeros(part.num_examples, np.int32)
        is_readable = np.zeros(part.num_examples, bool)
        unreadable: list[str] = []
        for batch in feature_batches(self._function, eval_dataset(part, self._view, plan=self._plan)):
            rows = batch.positions[batch.is_readable]
            features[rows], labels[rows] = batch.features[batch.is_readable], batch.labels[batch.is_readable]
            is_readable[rows] = True
            in_part = batch.positions < part.num_examples  # The others fill up the last batch.
            bad = [self._name(start + row) for row in batch.positions[in_part & ~batch.is_readable]]
            unreadable += bad
            self.count(int(np.count_nonzero(in_part)), bad)
            fraction = self._data.max_bad_image_fraction
            check_bad_images(self._source, num_bad=self._num_bad, num_seen=self._num_seen, max_fraction=fraction)
            self._progress.update(self._num_seen)
        kept = np.flatnonzero(is_readable)
        if unreadable:  # Indexing copies the features.
            features, labels = features[kept], labels[kept]
        return Features(features, labels, start + kept, unreadable)

    def close(self) -> None:
        """Leaves the progress bar: later output starts on a line of its own."""
        if self._progress is not None:
            self._progress.close()


def compute_features(network: Network, endpoint: str, source: Source, *, data: DataConfig, batch_size: int) -> Features:
    """Takes the images of a source through the network, each once.

    Raises:
        UserError: they cannot be read, or their features are not finite.
    """
    images = counted(source.num_examples, "image")
    _LOG.info("Features of %s: %s of %d px.", source.name, images, network.image_size)
    with contextlib.closing(FeaturePass(network, endpoint, source, data=data, batch_size=batch_size)) as features:
        part = features.read(0, source.num_examples)
    tell_unreadable(part.unreadable)
    fix = f"is not finite for some images of {source.name}; use another output or another checkpoint."
    check(bool(np.isfinite(part.features).all()), "endpoint", endpoint, fix)
    return part


def tell_unreadable(names: Sequence[str]) -> None:
    """Logs the names of unreadable images, if there are any."""
    if names:
        _LOG.info("Left out %s: %s.", counted(len(names), "unreadable image"), listed(names))


def image_names(data: DataConfig, source: Source) -> list[str]:
    """Returns the name of each image; in a folder, its path relative to the folder."""
    names = map(source.example_name, range(source.num_examples))
    if not data.dataset.startswith(FOLDER_PREFIX):
        return list(names)
    folder = shown_path(os.path.join(os.path.expanduser(data.dataset.removeprefix(FOLDER_PREFIX)), ""))
    return [name.removeprefix(folder) for name in names]


def sample_source(source: Source, most: int) -> Source:
    """Returns a source of at most `most` examples: a random choice, always the same."""
    if source.num_examples <= most:
        return source
    chosen = np.random.default_rng(0).choice(source.num_examples, most, replace=False)
    return source.subset(np.sort(chosen), source.name)
