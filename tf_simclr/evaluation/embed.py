"""Features of a data set, written to files: `--mode=embed`."""

import contextlib
import logging
import math
import os
from collections.abc import Iterable, Iterator, Sequence

from tf_simclr.config import EmbedConfig, check, public_dataset
from tf_simclr.data import Source, load_source
from tf_simclr.evaluation.feature_files import FeatureFiles, Rows
from tf_simclr.evaluation.features import (
    FeaturePass,
    Network,
    digest,
    image_names,
    load_inference_network,
    tell_unreadable,
)
from tf_simclr.files import counted
from tf_simclr.terminal.entry import entry_point
from tf_simclr.terminal.interrupts import interrupts_tell

_LOG = logging.getLogger("tf_simclr")
# A file is held in memory until it is written.
_MAX_BYTES = 2**32


@entry_point
def embed(config: EmbedConfig) -> None:
    """Writes features, labels and names of all readable images of a split; continues an interrupted output.

    If the output is a `.png`, it is a map of the features; see `maps.show_features`.

    Args:
        config: network, data set and output.

    Raises:
        UserError: a flag, a file or the data is wrong.
    """
    if config.is_shown:
        from tf_simclr.evaluation.maps import show_features  # The other formats need no Matplotlib.

        show_features(config)
        return
    files = FeatureFiles(str(config.output), overwrite=config.overwrite)
    network = load_inference_network(str(config.checkpoint))
    network.check_endpoint(config.endpoint)
    source = load_source(config.data, config.split, flag="split")
    _check_memory(config, network, source.num_examples)
    names = image_names(config.data, source)
    shape = list(network.shapes[config.endpoint])
    contents = {
        "dataset": public_dataset(config.data.dataset),
        "split": config.split,
        "endpoint": config.endpoint,
        "shard_size": config.shard_size,
        "weights": network.fingerprint,
        "images": digest(_image_states(names, source.files)),
        "prepared_data": source.prepared_in and digest([source.prepared_in.encode()]),
        "image_size": network.image_size,
        "class_names": None if source.class_names is None else list(source.class_names),
        "dtype": "float32",
        "shape": shape,
    }
    with files.owning(contents, num_images=source.num_examples, checkpoint=network.path):
        images = f"{counted(source.num_examples, 'image')} of {network.image_size} px"
        _LOG.info("Embedding %s: %s, output %s %s of %s.", source.name, images, config.endpoint, shape, network.path)
        _embed_missing(config, network, source, names, files)
    tell_unreadable(source.bad_image_names())
    shards = files.shards
    where = shards[0].name if len(shards) == 1 else f"{shards[0].name} to {shards[-1].name}"
    _LOG.info("Wrote the features of %s: %s.", counted(files.num_rows, "image"), where)


def _embed_missing(
    config: EmbedConfig, network: Network, source: Source, names: Sequence[str], files: FeatureFiles
) -> None:
    """Writes the files that are not finished, one after the other."""
    missing = files.missing
    # The same for all files: nothing is compiled twice, and the content of a file depends on no other.
    batch_size = min(config.eval_batch_size, config.shard_size)
    features = FeaturePass(network, config.endpoint, source, data=config.data, batch_size=batch_size, names=names)
    num_missing = sum(shard.stop - shard.start for shard in missing)
    features.count(source.num_examples - num_missing, files.unreadable)
    with contextlib.closing(features), interrupts_tell(lambda: _what_is_written(files)):
        for shard in missing:
            part = features.read(shard.start, shard.stop)
            rows = Rows(part.features, part.labels, [names[position] for position in part.positions])
            files.write(shard, rows, part.unreadable)


def _what_is_written(files: FeatureFiles) -> str | None:
    total = len(files.shards)
    num_written = total - len(files.missing)
    return f"{num_written} of {total} files are written; the same command goes on from there" if num_written else None


def _check_memory(config: EmbedConfig, network: Network, num_images: int) -> None:
    shape = network.shapes[config.endpoint]
    bytes_per_image = 4 * math.prod(shape)
    most = _MAX_BYTES // bytes_per_image
    fix = (
        f"{config.endpoint} {list(shape)} takes {bytes_per_image / 2**20:.1f} MiB an image, and a file is held in "
        f"memory until it is written; use at most {most}."
    )
    check(min(num_images, config.shard_size) <= most, "shard_size", config.shard_size, fix)


def _image_states(names: Iterable[str], files: Iterable[str]) -> Iterator[bytes]:
    """Yields the names of the images, and the sizes and times of their files: names may stay while images change."""
    for name in names:
        yield name.encode()
    for path in files:
        try:
            state = os.stat(path)
        except OSError:
            yield b""
        else:
            yield f"{state.st_size} {state.st_mtime_ns}".encode()
