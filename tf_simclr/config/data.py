"""The parts of a configuration that say what is trained on: data and augmentation."""

import dataclasses
import math
import os
import re
import urllib.parse

from tf_simclr.config.checks import check, check_at_most, check_choice, check_finite, is_handle, is_remote

_PATH_PREFIX = "(?:folder|tfrecord):"
_KNOWN_PREFIX = "folder|tfrecord|huggingface"


@dataclasses.dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """The augmentation of training images. Its pixels are floats in [0, 1]."""

    color_jitter_strength: float = 1.0
    use_blur: bool = True
    use_flip: bool = True
    crop_min_area: float = 0.08
    random_rotation: float = 0.0
    augment_on: str = "auto"

    def __post_init__(self):
        check_finite(self)
        check_choice("augment_on", self.augment_on, ("auto", "host", "device"))
        check(
            0 <= self.color_jitter_strength <= 2,
            "color_jitter_strength",
            self.color_jitter_strength,
            "use 0 (off) to 2; the authors use 1 for ImageNet and 0.5 for CIFAR-10.",
        )
        check(
            0 < self.crop_min_area <= 1,
            "crop_min_area",
            self.crop_min_area,
            "the least share of the image that a crop covers; use a number above 0, up to 1 (default 0.08).",
        )
        check(
            0 <= self.random_rotation <= 180,
            "random_rotation",
            self.random_rotation,
            "the largest angle in degrees; use 0 (off) to 180.",
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where the examples come from."""

    dataset: str = "imagenet2012"
    mix: str | None = None
    data_dir: str | None = None
    tfds_image_key: str | None = None
    tfds_label_key: str | None = None
    tfrecord_image_key: str | None = None
    tfrecord_label_key: str | None = None
    tfrecord_num_classes: int = 0
    tfrecord_first_label: int = 0
    train_split: str | None = None
    eval_split: str | None = None
    cache_dataset: bool = False
    max_bad_image_fraction: float = 0.01
    label_fraction: float = 1.0
    labels_per_class: int = 0
    label_seed: int = 0
    data_service: str | None = None

    def __post_init__(self):
        check_finite(self)
        check_at_most(self, tfrecord_num_classes=10**6, tfrecord_first_label=2**31 - 1, labels_per_class=10**9)
        self._check_labels()
        check(
            bool(self.dataset),
            "dataset",
            self.dataset,
            "use digits, fashion_mnist_debian, a TFDS name, folder:PATH or tfrecord:GLOB.",
        )
        self._check_mix()
        self._check_names()
        for flag in ("tfds_image_key", "tfrecord_image_key"):
            check(getattr(self, flag) != "", flag, "", "name a feature, such as image.")
        check(
            self.tfrecord_num_classes >= 0,
            "tfrecord_num_classes",
            self.tfrecord_num_classes,
            "use 0 (as many as there are labels) or more.",
        )
        check(
            self.tfrecord_first_label >= 0,
            "tfrecord_first_label",
            self.tfrecord_first_label,
            "the label of the first class; use 0, or 1 where they are counted from 1.",
        )
        check(self.train_split != "", "train_split", self.train_split, "name a split, such as train.")
        check(
            0 <= self.max_bad_image_fraction <= 1,
            "max_bad_image_fraction",
            self.max_bad_image_fraction,
            "the share of unreadable images that is tolerated; use 0 to 1.",
        )
        check(
            self.data_service is None or _is_grpc_address(self.data_service),
            "data_service",
            self.data_service,
            "use the address of a tf.data dispatcher, grpc://HOST:PORT.",
        )

    def _check_labels(self) -> None:
        check(
            0 < self.label_fraction <= 1,
            "label_fraction",
            self.label_fraction,
            "the share of the labels that is used; use a number above 0, up to 1 (all).",
        )
        check(
            not isinstance(self.labels_per_class, str),
            "labels_per_class",
            self.labels_per_class,
            "use one whole number; several, with commas between them, are for --mode=label_efficiency.",
        )
        check(self.labels_per_class >= 0, "labels_per_class", self.labels_per_class, "use 0 (all) or more.")
        check(
            self.label_fraction == 1 or not self.labels_per_class,
            "labels_per_class",
            self.labels_per_class,
            f"contradicts --label_fraction={self.label_fraction}; leave one of them out, or set "
            "--labels_per_class=0 where a recipe has it.",
        )
        check(
            0 <= self.label_seed < 2**31,
            "label_seed",
            self.label_seed,
            "use a whole number from 0 to 2147483647.",
        )

    def _check_names(self) -> None:
        """Refuses paths and prefixes that no kind of data has; TFDS would call them bad names."""
        for source in self.sources:
            prefix, _, rest = source.partition(":")
            check(
                not source.startswith(("/", "./", "../", "~")) and source not in (".", ".."),
                "dataset",
                self.dataset,
                f"a path; use folder:{source} for images, or tfrecord:{source} for record files.",
            )
            check(
                prefix != "folder" or "://" not in rest,
                "dataset",
                self.dataset,
                f"a folder is read from this machine alone; copy it, or use tfrecord:{rest} for record files.",
            )
            # The version of a TFDS data set stands behind a colon, and `huggingface:` belongs to TFDS.
            is_known = re.fullmatch(_KNOWN_PREFIX, prefix) or "/" in prefix or re.match(r"[\d*]", rest)
            kinds = f"folder:{rest} for a folder of images, or tfrecord:{rest} for record files"
            if rest.startswith("//"):
                kinds = f"tfrecord:{source} for record files"
            check(
                not rest or bool(is_known),
                "dataset",
                self.dataset,
                f"there is no kind of data {prefix}:; use {kinds}.",
            )

    def _check_mix(self) -> None:
        sources = ", ".join(self.sources)
        check(
            all(self.sources),
            "dataset",
            self.dataset,
            "a source without a name; write one comma between two.",
        )
        if self.mix is None:
            return
        check(
            self.weights is not None and all(0 < weight < math.inf for weight in self.weights),
            "mix",
            self.mix,
            "use a number above 0 for each source of --dataset, with commas between them, such as 0.7,0.3.",
        )
        check(
            len(self.sources) > 1,
            "mix",
            self.mix,
            f"there is one source, {sources}; leave it out, or name several, names such as digits first, as in "
            "--dataset=digits,folder:PATH,tfrecord:GLOB.",
        )
        check(
            len(self.weights or ()) == len(self.sources),
            "mix",
            self.mix,
            f"use {len(self.sources)} numbers, one for each source: {sources}.",
        )

    @property
    def sources(self) -> tuple[str, ...]:
        """The data sets that `dataset` names, one or several."""
        return split_sources(self.dataset)

    @property
    def weights(self) -> tuple[float, ...] | None:
        """The numbers in `mix`; None where it is not given, or they are no numbers."""
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
        """Whether only a part of the labels is used."""
        return self.label_fraction < 1 or self.labels_per_class > 0


def split_sources(dataset: str) -> tuple[str, ...]:
    """Returns the data sets that `dataset` names, one or several.

    A comma before `folder:` or `tfrecord:` separates two, and so does each between the names that come first;
    any other one is a part of a path.
    """
    first, *others = re.split(rf",(?={_PATH_PREFIX})", dataset)
    names = [first] if re.match(_PATH_PREFIX, first) else first.split(",")
    return (*names, *others)


def absolute_dataset(dataset: str) -> str:
    """Returns `dataset` with folders and files as they are named from any directory of this machine."""
    return ",".join(map(_absolute, split_sources(dataset)))


def public_dataset(dataset: str) -> str:
    """Returns `dataset` with the last part alone of each path, as it stands in files that are handed on."""
    return ",".join(map(_public, split_sources(dataset)))


def public_path(path: str) -> str:
    """Returns the last part of a path, as it stands in files that are handed on; a handle as it is."""
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
    """Returns the kind of a data set that is a path, and the path; two empty strings for a name."""
    match = re.match(_PATH_PREFIX, source)
    return (match[0], source[match.end() :]) if match else ("", "")


def _absolute_path(path: str) -> str:
    return os.path.abspath(os.path.expanduser(path))


def _is_grpc_address(address: str) -> bool:
    try:
        parts = urllib.parse.urlsplit(address)
        plain = not (parts.path or parts.query or parts.fragment or parts.username)
        return plain and parts.scheme == "grpc" and bool(parts.hostname) and bool(parts.port)
    except ValueError:  # Such a port cannot be.
        return False
