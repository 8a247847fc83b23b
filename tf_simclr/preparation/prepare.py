"""Conversion of a folder of images to record files, which are fast enough to feed accelerators."""

import collections
import concurrent.futures
import contextlib
import functools
import itertools
import logging
import multiprocessing
import os
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tf_simclr.config import PrepareConfig, UserError, check, public_dataset
from tf_simclr.data import (
    Source,
    available_splits,
    check_bad_images,
    describe_source,
    ignored_lines,
    load_source,
    match_classes,
)
from tf_simclr.data.manifest import UNREADABLE_FILE, Shard
from tf_simclr.data.sources import FOLDER_PREFIX
from tf_simclr.data.splits import UNLABELLED, find_split
from tf_simclr.evaluation.features import digest
from tf_simclr.files import counted, one_line, shown_path
from tf_simclr.images.decode import MAX_PIXELS
from tf_simclr.preparation.convert import Conversion, Converted, ReadError, convert_files, start_worker
from tf_simclr.preparation.record_writer import PreparedFiles, Row
from tf_simclr.terminal.entry import check_addresses
from tf_simclr.terminal.interrupts import interrupts_tell
from tf_simclr.terminal.progress import Progress

_LOG = logging.getLogger("tf_simclr")
_SETTINGS = ("prepare_short_side", "prepare_quality", "prepare_shard_megabytes", "prepare_shards", "seed")
# Number of images of a split from which the size of the output is estimated.
_NUM_SAMPLES = 64
# Images in one task of a process, and waiting tasks for each process.
_TASK_SIZE, _TASKS_AHEAD = 8, 3
_NUM_NAMED = 20
# First flags and batch size of the suggested training command.
_RECIPE, _BATCH_SIZE = "photos", 64

Convert = Callable[[Iterable[str]], Iterator[Converted]]


class _Split(NamedTuple):
    """The images of a split below `root`, and the order, [N], in which they are written."""

    source: Source
    root: str
    labels: NDArray[np.int32]
    order: NDArray[np.int64]

    def name(self, key: int) -> str:
        return self.source.example_name(key).removeprefix(self.root)

    def path(self, place: int) -> str:
        return self.source.files[int(self.order[place])]


def prepare(config: PrepareConfig) -> None:
    """Writes all splits of a folder as record files; resumes an interrupted conversion.

    The bytes of the files do not depend on the number of processes.

    Raises:
        UserError: The folder, the output or a setting does not fit; or something outside has failed.
    """
    check_addresses(config)
    files = PreparedFiles(str(config.output), overwrite=config.overwrite)
    try:
        with interrupts_tell(lambda: files.what_is_written):
            _prepare(config, files)
    except ReadError as error:
        # Skipping the image would lose it for good.
        raise UserError(
            f"--dataset={config.data.dataset}: {shown_path(error.path)} could not be read ({error.problem}); fix that "
            f"and {files.how_to_go_on}."
        ) from error
    except BrokenProcessPool as error:
        raise UserError(
            f"--prepare_workers={config.prepare_workers}: one of {_num_workers(config)} processes was ended from "
            f"outside, perhaps because memory ran out; use fewer and {files.how_to_go_on}."
        ) from error


def _prepare(config: PrepareConfig, files: PreparedFiles) -> None:
    splits = _load_splits(config, files.directory)
    settings = {name: getattr(config, name) for name in _SETTINGS} | {
        "images": digest(_image_states(splits)),
        "dataset": public_dataset(config.data.dataset),
    }
    if files.goes_on(settings) and files.is_finished:
        _LOG.info("Already prepared: %s.", files.directory)
        _report(files, splits)
        return
    with files.owning(), _start_workers(config) as convert:
        if files.goes_on(settings):
            files.go_on()
            missing, all_files = len(files.missing), counted(len(files.shards), "file")
            _LOG.info("Going on: %d of %s still to be written.", missing, all_files)
        else:
            sizes = {name: _sizes(config, split, convert) for name, split in splits.items()}
            files.begin(settings, _class_names(splits), sizes)
        _write_missing(config, splits, files, convert)
        files.finish()
    _report(files, splits)


def _load_splits(config: PrepareConfig, output: str) -> dict[str, _Split]:
    named = os.path.expanduser(config.data.dataset.removeprefix(FOLDER_PREFIX))
    folder, root = os.path.abspath(named), shown_path(os.path.join(named, ""))
    check(
        os.path.commonpath([folder, output]) != folder,
        "output",
        config.output,
        f"lies in the folder of the images, {folder}; name a directory outside.",
    )
    splits: dict[str, _Split] = {}
    for name in available_splits(config.data):
        source = load_source(config.data, name, flag="dataset")
        fix, names = "add a folder of each class to the first split", _class_names(splits)
        source = match_classes(source, names, flag="dataset", whose="the splits before it", fix=fix)
        count = source.num_examples
        check(len(source.files) == count, "dataset", config.data.dataset, "is no single folder; name one.")
        labels = np.full(count, -1, np.int32) if source.num_classes is None else source.read_labels()
        splits[name] = _Split(source, root, labels, np.random.RandomState(config.seed).permutation(count))
    sources = [split.source for split in splits.values()]
    for line in (*map(describe_source, sources), *ignored_lines(sources)):
        _LOG.info(one_line(line))
    return splits


def _class_names(splits: Mapping[str, _Split]) -> Sequence[str] | None:
    """Returns the class names of the first split with labels; None without labels."""
    return next((s.source.class_names for s in splits.values() if s.source.class_names is not None), None)


def _image_states(splits: Mapping[str, _Split]) -> Iterator[bytes]:
    """Yields text that changes if an image does, even under the same name; raises ReadError if it cannot tell."""
    for name, split in splits.items():
        yield name.encode()
        yield "\n".join(split.source.class_names or ()).encode()
        for key, label in enumerate(split.labels):
            image = f"{split.name(key)} {label}"
            try:
                state = os.stat(split.source.files[key])
            except FileNotFoundError:
                yield image.encode()
            except OSError as error:
                raise ReadError(split.source.files[key], str(error.strerror)) from error
            else:
                yield f"{image} {state.st_size} {state.st_mtime_ns}".encode()


def _sizes(config: PrepareConfig, split: _Split, convert: Convert) -> tuple[int, int]:
    """Returns the number of images and of files of a split."""
    count = len(split.order)
    if config.prepare_shards:
        return count, min(config.prepare_shards, count)
    num_samples = min(_NUM_SAMPLES, count)
    num_bytes = sum(len(one.image) for one in convert(map(split.path, range(num_samples))))
    bytes_in_all = num_bytes * count / num_samples
    return count, min(max(1, round(bytes_in_all / (config.prepare_shard_megabytes * 1e6))), count)


@contextlib.contextmanager
def _start_workers(config: PrepareConfig) -> Iterator[Convert]:
    """Yields a function from paths to converted images, in the same order, that uses all processes."""
    conversion = Conversion(config.prepare_short_side, config.prepare_quality, MAX_PIXELS)
    work = functools.partial(convert_files, conversion=conversion)
    num_workers = _num_workers(config)
    if num_workers == 1:
        yield lambda paths: itertools.chain.from_iterable(work([path]) for path in paths)
        return
    # Spawned processes do not have TensorFlow, its memory and its threads.
    pool = concurrent.futures.ProcessPoolExecutor(
        num_workers, multiprocessing.get_context("spawn"), initializer=start_worker
    )
    try:
        yield functools.partial(_map, pool, work, num_ahead=_TASKS_AHEAD * num_workers)
    finally:
        pool.shutdown(cancel_futures=True)


def _num_workers(config: PrepareConfig) -> int:
    """Returns the number of processes: by default one for each core that this process may use."""
    num_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return config.prepare_workers or num_cores


def _map(
    pool: concurrent.futures.Executor,
    work: Callable[[list[str]], list[Converted]],
    paths: Iterable[str],
    num_ahead: int,
) -> Iterator[Converted]:
    """Maps like `pool.map`, which would keep all images of a data set in memory."""
    rest, pending = iter(paths), collections.deque[concurrent.futures.Future[list[Converted]]]()
    while task := list(itertools.islice(rest, _TASK_SIZE)):
        pending.append(pool.submit(work, task))
        if len(pending) > num_ahead:
            yield from pending.popleft().result()
    while pending:
        yield from pending.popleft().result()


def _write_missing(config: PrepareConfig, splits: Mapping[str, _Split], files: PreparedFiles, convert: Convert) -> None:
    """Writes the unfinished files one after the other; stops if too many images of a split are unreadable."""
    missing = files.missing
    total = sum(len(split.order) for split in splits.values())
    num_missing = sum(shard.stop - shard.start for shard in missing)
    num_bad, num_seen = collections.Counter[str](), collections.Counter[str]()
    for name, split in splits.items():
        unreadable = files.unreadable(name)
        for image in unreadable:
            split.source.add_bad_image(image)
        num_bad[name], num_seen[name] = len(unreadable), files.splits[name]["num_examples"] + len(unreadable)
    places = ((splits[shard.split], place) for shard in missing for place in range(shard.start, shard.stop))
    images = convert(split.path(place) for split, place in places)
    progress = Progress(total - num_missing, total)

    def rows(shard: Shard) -> Iterator[Row]:
        split = splits[shard.split]
        for key in split.order[shard.start : shard.stop]:
            name, (image, problem) = split.name(key), next(images)
            num_seen[shard.split] += 1
            if problem:
                num_bad[shard.split] += 1
                split.source.add_bad_image(name)
            check_bad_images(
                split.source,
                num_bad=num_bad[shard.split],
                num_seen=num_seen[shard.split],
                max_fraction=config.data.max_bad_image_fraction,
                can_prepare=False,
            )
            progress.add()
            yield Row(name, int(split.labels[key]), image, problem)

    with contextlib.closing(progress):
        for shard in missing:
            files.write(shard, rows(shard))


def _report(files: PreparedFiles, splits: Mapping[str, _Split]) -> None:
    for name, split in files.splits.items():
        images, shards = counted(split["num_examples"], "image"), counted(split["num_shards"], "file")
        kilobytes = sum(entry["bytes"] for entry in split["files"]) / 1e3
        size = f"{kilobytes / 1e3:.1f} MB" if kilobytes >= 1e3 else f"{kilobytes:.1f} kB"
        _LOG.info("%s: %s in %s, %s.", name, images, shards, size)
    unreadable = [f"{image} ({problem})" for name in files.splits for image, problem in files.unreadable(name).items()]
    if unreadable:
        where = os.path.join(files.directory, UNREADABLE_FILE)
        images, shown = counted(len(unreadable), "unreadable image"), ", ".join(unreadable[:_NUM_NAMED])
        _LOG.info("Left out %s, listed in %s: %s.", images, where, shown)
    sizes = {name: split["num_examples"] for name, split in files.splits.items()}
    train = find_split("train", splits)
    num_classes = splits[train].source.num_classes if train else None
    flags = training_flags(files.directory, sizes, num_classes or 0)
    _LOG.info("Train from them: python -m tf_simclr %s", shlex.join(flags))


def training_flags(directory: str, sizes: Mapping[str, int], num_classes: int) -> list[str]:
    """Returns flags for training on the prepared files.

    Args:
        directory: Directory of the record files.
        sizes: Number of images of each split.
        num_classes: Number of classes of the training split; 0 without labels.
    """
    train, unlabelled = find_split("train", sizes), find_split(UNLABELLED, sizes)
    split = train or next(iter(sizes))
    flags = [f"--flagfile={_RECIPE}", f"--dataset=tfrecord:{directory}"]
    if train is None:
        flags.append(f"--train_split={split}")
    if num_classes < 2:  # A single class teaches nothing.
        flags.append("--train_mode=pretrain")
    # Pretraining and distillation take both by default.
    count = sizes[split] + (sizes[unlabelled] if train and unlabelled else 0)
    if count < _BATCH_SIZE:
        flags.append(f"--train_batch_size={count}")
    return flags
