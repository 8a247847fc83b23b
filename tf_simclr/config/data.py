"""Settings of the training data and its augmentation."""

import dataclasses
import functools
import math
import os
import re
import urllib.parse
from typing import ClassVar

from tf_simclr.config.checks import is_handle, is_remote
from tf_simclr.config.setting import SEEDS, Settings, setting, setting_of_command

# Pretraining without a probe does not depend on these.
LABEL_SETTINGS = ("label_fraction", "labels_per_class", "label_seed")
_PATH_PREFIX = "(?:folder|tfrecord):"
_KNOWN_PREFIX = "folder|tfrecord|huggingface"
_FEATURE = "name a feature, such as image"
# Modes of tools.
_PROBES = ("linear_eval", "knn_eval")
_SUITES = ("transfer", "robustness")
_labels = functools.partial(setting, unused_by=("prepare", "embed", *_SUITES), topic="labels")


@dataclasses.dataclass(frozen=True, kw_only=True)
class AugmentConfig(Settings):
    """Augmentation of training images, whose pixels are floats in [0, 1]."""

    topic: ClassVar[str] = "views"

    color_jitter_strength: float = setting(
        1.0,
        "Strength of the colour jitter.",
        "0 (no jitter, no grey-scale) to 2; the authors use 1 for ImageNet and 0.5 for CIFAR-10",
        unused_by=("transfer",),
    )
    use_blur: bool = setting(True, "Random Gaussian blur while pretraining.", unused_by=("transfer",))
    use_flip: bool = setting(True, "Random horizontal flip.")
    crop_min_area: float = setting(
        0.08, "Smallest share of the image that a random crop covers.", "a number above 0, up to 1; 0.08 is usual"
    )
    random_rotation: float = setting(0.0, "Largest angle of a random rotation.", "0 (off) to 180 degrees")
    augment_on: str = setting(
        "auto",
        "Where views are made, equal to rounding. host: by the input pipeline on the CPU. device: in the training "
        "step by XLA, except crops of images that are decoded one by one. auto: device on TPUs, and on GPUs unless "
        "--jit_compile=False.",
        ("auto", "host", "device"),
        free=True,
        topic="speed",
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig(Settings):
    """The data sets, their splits and their labels."""

    topic: ClassVar[str] = "data"

    dataset: str = setting(
        "imagenet2012",
        "The images: digits, a TFDS name (cifar10, imagenet2012, ...), folder:PATH with one folder per class, or "
        "tfrecord:GLOB. Separate several with commas, names first: digits,folder:PATH,tfrecord:GLOB. They are mixed "
        "without their labels.",
        fix="use digits, a TFDS name, folder:PATH or tfrecord:GLOB",
        unused_by=_SUITES,
    )
    mix: str | None = setting(
        None,
        "Share of each source in every batch, such as 0.7,0.3. If not given: in proportion to their images.",
        unused_by=("embed", *_PROBES),
    )
    data_dir: str | None = setting_of_command(None, "Directory of prepared TFDS data sets.")
    tfds_image_key: str | None = setting(
        None, "Image feature of a TFDS data set; needed if it has several.", fix=_FEATURE
    )
    tfds_label_key: str | None = setting(
        None, "Label feature of a TFDS data set; needed if it has several. Empty: read no labels."
    )
    tfrecord_image_key: str | None = setting(
        None, "Feature of tfrecord:GLOB with the encoded image. If not given: the usual names.", fix=_FEATURE
    )
    tfrecord_label_key: str | None = setting(
        None, "Feature of tfrecord:GLOB with the integer label. If not given: the usual names. Empty: read no labels."
    )
    tfrecord_num_classes: int = setting(
        0, "Number of classes of tfrecord:GLOB.", "0 (from the manifest, or else from the labels) or more"
    )
    tfrecord_first_label: int = setting(
        0,
        "Label of the first class of tfrecord:GLOB. A lower label, such as -1, means no label.",
        "0 or more; use 0, or 1 if they are counted from 1, as those of ImageNet often are",
        limit=2**31 - 1,
    )
    train_split: str | None = setting(
        None,
        "Split to train on. Parts and sums are written as in TFDS: train[:80%]+unlabelled. If not given: train; "
        "pretraining and distillation add the split unlabelled if there is one.",
        fix="name a split, such as train",
        unused_by=("prepare", "embed", *_SUITES),
    )
    eval_split: str | None = setting(
        None,
        "Split to evaluate on. If not given: validation, or else test; for linear_eval and knn_eval test, or else "
        "validation.",
        free=True,
        unused_by=("prepare", "embed", "benchmark", *_SUITES),
    )
    cache_dataset: bool = setting(
        False, "Keep records in memory.", free=True, unused_by=("prepare", "robustness"), topic="speed"
    )
    max_bad_image_fraction: float = setting(
        0.01, "Share of unreadable images above which the run stops.", "0 to 1", free=True
    )
    label_fraction: float = _labels(
        1.0,
        "Share of the labels that finetune, supervised, distill, linear_eval and knn_eval see, equal in each class. "
        "A larger share contains every smaller one.",
        "a number above 0, up to 1 (all)",
    )
    labels_per_class: int = _labels(
        0,
        "Labels of each class that these stages see. For label_efficiency: the numbers to compare, 1,2,5,10,50 if not "
        "given.",
        "0 (all) or more",
        limit=10**9,
    )
    label_seed: int = _labels(0, "Seed of the choice of those labels.", SEEDS)
    data_service: str | None = setting_of_command(
        None,
        "Address of a tf.data service, grpc://HOST:PORT, whose workers make the training batches. Each image comes "
        "once an epoch while no worker fails. The order is not fixed, so the run cannot be repeated exactly.",
        unused_by=("prepare", "embed", "benchmark", *_PROBES, *_SUITES),
        topic="speed",
    )

    def __post_init__(self) -> None:
        fix = "use one whole number; only --mode=label_efficiency takes several, with commas between them."
        self._require(not isinstance(self.labels_per_class, str), "labels_per_class", fix)
        super().__post_init__()
        self._require(
            self.label_fraction == 1 or not self.labels_per_class,
            "labels_per_class",
            f"contradicts --label_fraction={self.label_fraction}; leave one of them out, or set "
            "--labels_per_class=0 where a recipe has it.",
        )
        self._check_mix()
        for source in self.sources:
            self._check_source(source)
        fix = "use the address of a tf.data dispatcher, grpc://HOST:PORT."
        self._require(self.data_service is None or _is_grpc_address(self.data_service), "data_service", fix)

    def _check_source(self, source: str) -> None:
        """Refuses bare paths and unknown prefixes, which TFDS would report as bad names."""
        prefix, _, rest = source.partition(":")
        fix = f"is a path; use folder:{source} for images, or tfrecord:{source} for record files."
        self._require(not source.startswith(("/", "./", "../", "~")) and source not in (".", ".."), "dataset", fix)
        fix = f"folders are read only from this machine; copy it, or use tfrecord:{rest} for record files."
        self._require(prefix != "folder" or "://" not in rest, "dataset", fix)
        # TFDS writes versions after a colon, and has the prefix `huggingface:`.
        is_known = re.fullmatch(_KNOWN_PREFIX, prefix) or "/" in prefix or re.match(r"[\d*]", rest)
        kinds = f"folder:{rest} for a folder of images, or tfrecord:{rest} for record files"
        if rest.startswith("//"):
            kinds = f"tfrecord:{source} for record files"
        self._require(not rest or bool(is_known), "dataset", f"there is no kind of data {prefix}:; use {kinds}.")

    def _check_mix(self) -> None:
        count, sources = len(self.sources), ", ".join(self.sources)
        self._require(all(self.sources), "dataset", "a source without a name; write one comma between two.")
        if self.mix is None:
            return
        fix = "use a number above 0 for each source of --dataset, with commas between them, such as 0.7,0.3."
        self._require(self.weights is not None and all(0 < weight < math.inf for weight in self.weights), "mix", fix)
        self._require(
            count > 1,
            "mix",
            f"there is one source, {sources}; leave it out, or name several, names such as digits first, as in "
            "--dataset=digits,folder:PATH,tfrecord:GLOB.",
        )
        fix = f"use {count} numbers, one for each source: {sources}."
        self._require(len(self.weights or ()) == count, "mix", fix)

    @property
    def sources(self) -> tuple[str, ...]:
        """The data sets that `dataset` names, one or several."""
        return split_sources(self.dataset)

    @property
    def weights(self) -> tuple[float, ...] | None:
        """The numbers in `mix`; None if it is not given or not all are numbers."""
        try:
            return None if self.mix is None else tuple(float(number) for number in self.mix.split(","))
        except ValueError:
            return None

    @property
    def labelled_split(self) -> str:
        """The split to learn labels from."""
        return self.train_split or "train"

    @property
    def few_labels(self) -> bool:
        """True if only some of the labels are used."""
        return self.label_fraction < 1 or self.labels_per_class > 0


def split_sources(dataset: str) -> tuple[str, ...]:
    """Returns the data sets that `dataset` names.

    Commas between leading names, and before `folder:` or `tfrecord:`, separate data sets. Other commas belong to
    a path.
    """
    first, *others = re.split(rf",(?={_PATH_PREFIX})", dataset)
    names = [first] if re.match(_PATH_PREFIX, first) else first.split(",")
    return (*names, *others)


def absolute_dataset(dataset: str) -> str:
    """Returns `dataset` with absolute paths."""
    return ",".join(map(_absolute, split_sources(dataset)))


def public_dataset(dataset: str) -> str:
    """Returns `dataset` with only the last part of each path, for files that are shared."""
    return ",".join(map(_public, split_sources(dataset)))


def public_path(path: str) -> str:
    """Returns the last part of a path, for files that are shared; handles stay whole."""
    if is_handle(path):
        return path
    return os.path.basename(os.path.normpath(path if is_remote(path) else _absolute_path(path)))


def _absolute(source: str) -> str:
    prefix, path = _split_prefix(source)
    return source if not path or is_remote(path) else prefix + _absolute_path(path)


def _public(source: str) -> str:
    prefix, path = _split_prefix(source)
    return prefix + public_path(path) if path else source


def _split_prefix(source: str) -> tuple[str, str]:
    """Returns the prefix and the path of a data set; two empty strings for a name."""
    match = re.match(_PATH_PREFIX, source)
    return (match[0], source[match.end() :]) if match else ("", "")


def _absolute_path(path: str) -> str:
    return os.path.abspath(os.path.expanduser(path))


def _is_grpc_address(address: str) -> bool:
    try:
        parts = urllib.parse.urlsplit(address)
        plain = not (parts.path or parts.query or parts.fragment or parts.username)
        return plain and parts.scheme == "grpc" and bool(parts.hostname) and bool(parts.port)
    except ValueError:  # The port is out of range.
        return False
