"""Features of a data set, into files: what one named output of a network says of every image."""

import contextlib
import logging
import math
import os
from collections.abc import Iterable, Iterator, Sequence

from tf_simclr.config import EmbedConfig, check, public_dataset
from tf_simclr.data import Source, load_source
from tf_simclr.evaluation.feature_files import FeatureFiles, Rows
from tf_simclr.evaluation.features import FeaturePass, Network, digest, image_names, load_inference_network
from tf_simclr.files import counted, listed
from tf_simclr.terminal.entry import entry_point
from tf_simclr.terminal.interrupts import interrupts_tell

_LOG = logging.getLogger("tf_simclr")
# A file is held in memory until it is written.
_MAX_BYTES = 2**32


@entry_point
def embed(config: EmbedConfig) -> None:
    """Writes features, labels and names of all readable images of a split; goes on where it was stopped.

    Or what they look like, where the output is a `.png`: see `maps.show_features`.

    Args:
        config: network, data set and output.

    Raises:
        UserError: a flag, a file or the data is wrong.
    """
    if config.is_shown:
        from tf_simclr.evaluation.maps import show_features  # Without Matplotlib for the other formats.

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
        _LOG.info(
            "Embedding %s: %s of %d px, output %s %s of %s.",
            source.name,
            counted(source.num_examples, "image"),
            network.image_size,
            config.endpoint,
            shape,
            network.path,
        )
        _embed_missing(config, network, source, names, files)
    _report(source, files)


def _embed_missing(
    config: EmbedConfig, network: Network, source: Source, names: Sequence[str], files: FeatureFiles
) -> None:
    """Writes the files that are not finished, one after the other."""
    missing = files.missing
    # All files have the same batches: nothing is compiled twice, and what a file holds depends on no other.
    features = FeaturePass(
        network,
        config.endpoint,
        source,
        data=config.data,
        batch_size=min(config.eval_batch_size, config.shard_size),
        names=names,
    )
    num_missing = sum(shard.stop - shard.start for shard in missing)
    features.skip(source.num_examples - num_missing, files.unreadable)
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
    check(
        min(num_images, config.shard_size) <= most,
        "shard_size",
        config.shard_size,
        f"{config.endpoint} {list(shape)} takes {bytes_per_image / 2**20:.1f} MiB an image, and a file is held in "
        f"memory until it is written; use at most {most}.",
    )


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
        images = counted(len(unreadable), "unreadable image")
        _LOG.info("Left out %s: %s.", images, listed(list(unreadable)))
    _LOG.info("Wrote the features of %s: %s.", counted(files.num_rows, "image"), where)
