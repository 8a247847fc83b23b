"""The manifest of record files that were prepared from a folder: its form, and what it says."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

FORMAT = "tf_simclr-prepared-1"
# Settings that only say where the images were.
_FREE_SETTINGS = frozenset(["dataset"])
# What the manifest has of each split, and of each finished file.
_SPLIT: dict[str, type] = {"num_images": int, "num_shards": int, "files": list}
_ENTRY: dict[str, type] = {"name": str, "num_examples": int, "bytes": int, "sha256": str, "unreadable": dict}


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
        "format": FORMAT,
        "class_names": None if class_names is None else list(class_names),
        "splits": splits,
        "settings": dict(settings),
    }


def is_manifest(value: Any) -> bool:
    """Returns whether `value`, of any JSON, has the form of a manifest."""
    return (
        _has(value, {"format": str, "splits": dict, "settings": dict})
        and value["format"] == FORMAT
        and all(_has(split, _SPLIT) for split in value["splits"].values())
        and all(_has(entry, _ENTRY) for split in value["splits"].values() for entry in split["files"])
    )


def _has(value: Any, kinds: Mapping[str, type]) -> bool:
    return isinstance(value, dict) and all(isinstance(value.get(key), kind) for key, kind in kinds.items())


def differences(begun: Mapping[str, Any], settings: Mapping[str, Any]) -> list[str]:
    """Returns how settings differ from those of a manifest, as the user knows them."""
    changed = []
    for name, new in settings.items():
        old = begun.get(name)
        if old == new or name in _FREE_SETTINGS:
            continue
        changed.append(
            f"other images, of {begun.get('dataset')}" if name == "images" else f"--{name}={old}, not {new}"
        )
    return changed
