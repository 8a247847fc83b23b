"""The manifest of record files that were prepared from a folder: its form, and what it says."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from tf_simclr.data.manifest import COUNT, FILE_ENTRY, MANIFEST_FORMAT
from tf_simclr.files import between, plain_name

# Settings that only say where the images were.
_FREE_SETTINGS = frozenset(["dataset"])
FORM = {
    "format": lambda value: value == MANIFEST_FORMAT,
    "class_names": (None, [str]),
    "splits": {
        plain_name: {
            "num_images": COUNT,
            "num_shards": between(0, 10**6),
            "files": [FILE_ENTRY | {"sha256": str, "unreadable": {str: str}}],
        }
    },
    "settings": dict,
}


class Shard(NamedTuple):
    """One file, and the places in the order of its split that it is for: `start` to `stop` - 1."""

    split: str
    name: str
    start: int
    stop: int


def shards_of(name: str, split: Mapping[str, Any]) -> list[Shard]:
    """Returns all files of a split."""
    images, count = split["num_images"], split["num_shards"]
    return [
        Shard(name, f"{name}-{n:05d}-of-{count:05d}.tfrecord", n * images // count, (n + 1) * images // count)
        for n in range(count)
    ]


def new_manifest(
    settings: Mapping[str, Any], class_names: Sequence[str] | None, sizes: Mapping[str, tuple[int, int]]
) -> dict[str, Any]:
    """Returns a manifest without files.

    Args:
        settings: what the files depend on, of JSON.
        class_names: of the labels; None without labels.
        sizes: number of images and of files, by split.
    """
    splits = {
        name: {"num_examples": 0, "num_unreadable": 0, "num_images": images, "num_shards": files, "files": []}
        for name, (images, files) in sizes.items()
    }
    return {
        "format": MANIFEST_FORMAT,
        "class_names": None if class_names is None else list(class_names),
        "splits": splits,
        "settings": dict(settings),
    }


def differences(begun: Mapping[str, Any], settings: Mapping[str, Any]) -> list[str]:
    """Returns how settings differ from those of a manifest, as the user knows them."""
    changed = []
    for name, new in settings.items():
        old = begun.get(name)
        if old == new or name in _FREE_SETTINGS:
            continue
        changed.append(f"other images, of {begun.get('dataset')}" if name == "images" else f"--{name}={old}, not {new}")
    return changed
