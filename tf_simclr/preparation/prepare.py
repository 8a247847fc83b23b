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
from typing import Any, NamedTuple

import numpy as np

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
from tf_simclr.data.manifest import Shard
from tf_simclr.data.sources import FOLDER_PREFIX
from tf_simclr.data.splits import UNLABELLED, find_split
from tf_simclr.evaluation.features import digest
from tf_simclr.files import counted, one_line, shown_path
from tf_simclr.images.decode import MAX_PIXELS
from tf_simclr.preparation.convert import Conversion, Converted, ReadError, convert_files, start_worker
from tf_simclr.preparation.record_writer import UNREADABLE, PreparedFiles, Row
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
    """The images of a split below `root`, and the order, int64 [N], in which they are written."""

    source: Source
    root: str
    labels: np.ndarray
    order: np.ndarray

    def name(self, key: int) -> str:
        return self.source.example_name(key).removeprefix(self.root)

    def path(self, place: int) -> str:
        return self.source.files[self.order[place]]


def prepare(config: PrepareConfig) -> None:
    """Writes all splits of a folder as record files; resumes an interrupted conversion.

    The bytes of the files do not depend on the number of processes.

    Args:
        config: folder, output and settings of the conversion.

    Raises:
        UserError: anything the user can fix.
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
            f"outside, perhaps as memory ran out; use fewer and {files.how_to_go_on}."
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


def _folder(config: PrepareConfig) -> str:
    return os.path.expanduser(config.data.dataset.removeprefix(FOLDER_PREFIX))


def _load_splits(config: PrepareConfig, output: str) -> dict[str, _Split]:
    folder = os.path.abspath(_folder(config))
    check(
        os.path.commonpath([folder, output]) != folder,
        "output",
        config.output,
        f"lies in the folder of the images, {folder}; name a directory outside.",
    )
    splits: dict[str, _Split] = {}
    root = shown_path(os.path.join(_folder(config), ""))
    for name in available_splits(config.data):
        source = load_source(config.data, name, flag="dataset")
        source = match_classes(
            source,
            _class_names(splits),
            flag="dataset",
            whose="the splits before it",
            fix="add a folder of each class to the first split",
        )
        count = source.num_examples
        check(len(source.files) == count, "dataset", config.data.dataset, "is no single folder; name one.")
        splits[name] = _Split(
            source,
            root=root,
            labels=np.full(count, -1) if source.num_classes is None else source.read_labels(),
            order=np.random.RandomState(config.seed).permutation(count),
        )
    sources = [split.source for split in splits.values()]
    for line in (*map(describe_source, sources), *ignored_lines(sources)):
        _LOG.info(one_line(line))
    return splits


def _class_names(splits: Mapping[str, _Split]) -> Sequence[str] | None:
    """Returns the class names of the first split with labels; None without labels."""
    return next((s.source.class_names for s in splits.values() if s.source.class_names is not None), None)


def _image_states(splits: Mapping[str, _Split]) -> Iterator[bytes]:
    """Yields text that changes if an image does, even under the same name.

    Raises:
        ReadError: if the state of an image cannot be read.
    """
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
    """Gives a function from paths to converted images, in the same order, that uses all processes."""
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
    *,
    num_ahead: int,
) -> Iterator[Converted]:
    """Maps like `pool.map`, which would keep all images of a data set in memory."""
    rest, pending = iter(paths), collections.deque[concurrent.futures.Future]()
    while task := list(itertools.islice(rest, _TASK_SIZE)):
        pending.append(pool.submit(work, task))
        if len(pending) > num_ahead:
            yield from pending.popleft().result()
    while pending:
        yield from pending.popleft().result()


def _write_missing(config: PrepareConfig, splits: Mapping[str, _Split], files: PreparedFiles, convert: Convert) -> None:
    """Writes the files that are not finished, one after the other."""
    missing = files.missing
    total = sum(len(split.order) for split in splits.values())
    num_missing = sum(shard.stop - shard.start for shard in missing)
    watches = {
        name: _Watch(config, split.source, files.unreadable(name), files.splits[name]["num_examples"])
        for name, split in splits.items()
    }
    places = ((splits[shard.split], place) for shard in missing for place in range(shard.start, shard.stop))
    images = convert(split.path(place) for split, place in places)
    progress = Progress(total - num_missing, total)
    with contextlib.closing(progress):
        done = itertools.count(total - num_missing + 1)

        def rows(shard: Shard) -> Iterator[Row]:
            split, watch = splits[shard.split], watches[shard.split]
            for key in split.order[shard.start : shard.stop]:
                name, (image, problem) = split.name(key), next(images)
                watch.see(name, is_readable=not problem)
                progress.update(next(done))
                yield Row(name, int(split.labels[key]), image, problem)

        for shard in missing:
            files.write(shard, rows(shard))


class _Watch:
    """Stops if too many images of a split are unreadable.

    Args:
        config: contains the tolerated share.
        source: source of the images.
        unreadable: problems of earlier unreadable images by name.
        num_readable: number of earlier readable images.
    """

    def __init__(self, config: PrepareConfig, source: Source, unreadable: Mapping[str, Any], num_readable: int):
        self._source, self._max_fraction = source, config.data.max_bad_image_fraction
        self._num_bad, self._num_seen = len(unreadable), num_readable + len(unreadable)
        for name in unreadable:
            source.add_bad_image(name)

    def see(self, name: str, *, is_readable: bool) -> None:
        """Counts an image.

        Raises:
            UserError: if too many are unreadable.
        """
        self._num_seen += 1
        if not is_readable:
            self._num_bad += 1
            self._source.add_bad_image(name)
        check_bad_images(
            self._source,
            num_bad=self._num_bad,
            num_seen=self._num_seen,
            max_fraction=self._max_fraction,
            can_prepare=False,
        )


def _report(files: PreparedFiles, splits: Mapping[str, _Split]) -> None:
    for name, split in files.splits.items():
        images, shards = counted(split["num_examples"], "image"), counted(split["num_shards"], "file")
        kilobytes = sum(entry["bytes"] for entry in split["files"]) / 1e3
        size = f"{kilobytes / 1e3:.1f} MB" if kilobytes >= 1e3 else f"{kilobytes:.1f} kB"
        _LOG.info("%s: %s in %s, %s.", name, images, shards, size)
    unreadable = [f"{image} ({problem})" for name in files.splits for image, problem in files.unreadable(name).items()]
    if unreadable:
        where = os.path.join(files.directory, UNREADABLE)
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
        directory: directory of the record files.
        sizes: number of images of each split.
        num_classes: number of classes of the training split; 0 without labels.
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
