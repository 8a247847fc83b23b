"""Record files of a folder: conversion of each kind of image, resuming after an interruption, bad input."""

import hashlib
import json
import os
import re
import subprocess
import sys
import textwrap
import time

import pytest
import tensorflow as tf

from tests.preparation.support import NAMES, config, files, manifest_of, read, refusal
from tests.preparation.test_convert import size_of
from tests.support.marks import usual
from tests.support.runs import REPOSITORY, write_images
from tf_simclr.preparation import prepare as module
from tf_simclr.preparation import record_writer as prepared_files
from tf_simclr.preparation.prepare import prepare

# ---- Folders


def test_records_hold_all_images_with_labels_mixed_over_the_files(out, photos, tmp_path):
    prepare(config(photos, out))
    names = [f"train-{number:05}-of-00003.tfrecord" for number in range(3)]
    assert sorted(files(out)) == ["manifest.json", *names]
    parts = [read(out / name) for name in names]
    rows = [row for part in parts for row in part]
    assert sorted(name for name, _, _ in rows) == NAMES != [name for name, _, _ in rows]
    for name, label, image in rows:
        assert label == name.startswith("dog")
        assert image == (photos / name).read_bytes()
    assert all({label for _, label, _ in part} == {0, 1} for part in parts)
    manifest = manifest_of(out)
    assert (manifest["format"], manifest["class_names"]) == ("tf_simclr-prepared-1", ["cat", "dog"])
    split = manifest["splits"]["train"]
    assert (split["num_examples"], split["num_unreadable"]) == (20, 0)
    for entry, name, part in zip(split["files"], names, parts, strict=True):
        content = (out / name).read_bytes()
        assert (entry["name"], entry["num_examples"], entry["bytes"]) == (name, len(part), len(content))
        assert entry["sha256"] == hashlib.sha256(content).hexdigest()
    assert manifest["settings"]["prepare_shards"] == 3
    assert manifest["settings"]["dataset"] == f"folder:{photos.name}"
    assert str(tmp_path) not in json.dumps(manifest)


def test_order_follows_from_the_seed(photos, tmp_path):
    orders = []
    for number, seed in enumerate((0, 0, 1)):
        prepare(config(photos, tmp_path / str(number), prepare_shards=1, seed=seed))
        rows = read(tmp_path / str(number) / "train-00000-of-00001.tfrecord")
        orders.append([name for name, _, _ in rows])
    assert orders[0] == orders[1] != orders[2]


def test_all_splits_are_prepared_and_a_flat_one_has_no_labels(out, splits):
    write_images(splits / "test", 2)
    prepare(config(splits, out))
    manifest = manifest_of(out)
    assert {name: split["num_examples"] for name, split in manifest["splits"].items()} == {"train": 20, "test": 2}
    assert manifest["class_names"] == ["cat", "dog"]
    rows = [row[:2] for n in range(2) for row in read(out / f"test-0000{n}-of-00002.tfrecord")]
    assert sorted(rows) == [("test/000.png", None), ("test/001.png", None)]


def test_flat_folder_has_no_class_names_and_images_are_resized(out, tmp_path):
    folder = write_images(tmp_path / "flat", 3, size=30)
    prepare(config(folder, out, prepare_shards=1, prepare_short_side=15))
    assert manifest_of(out)["class_names"] is None
    rows = read(out / "train-00000-of-00001.tfrecord")
    assert [size_of(image) for _, _, image in rows] == [(16, 15)] * 3


def test_number_of_files_follows_from_their_size(out, tmp_path):
    folder = write_images(tmp_path / "flat", 16, size=250)
    prepare(config(folder, out, prepare_shards=0, prepare_shard_megabytes=1))
    sizes = [entry["bytes"] for entry in manifest_of(out)["splits"]["train"]["files"]]
    assert len(sizes) == 3  # Of 16 x 188 kB of noise.
    assert all(0.8e6 < size < 1.2e6 for size in sizes)


def test_two_processes_write_the_same_bytes_as_one(photos, tmp_path):
    for number in (1, 2):
        prepare(config(photos, tmp_path / str(number), prepare_workers=number, prepare_short_side=8))
    assert files(tmp_path / "1") == files(tmp_path / "2")


# ---- Interruptions


class Stopped:
    """Makes `count` records, then raises."""

    def __init__(self, monkeypatch, count, error):
        self.left, self.error, self._make = count, error, prepared_files._record
        monkeypatch.setattr(prepared_files, "_record", self)

    def __call__(self, row):
        if not self.left:
            raise self.error
        self.left -= 1
        return self._make(row)


@pytest.mark.parametrize("num_records", usual(0, 10, also=[6, 19]))
def test_interrupted_output_goes_on_to_the_same_bytes(photos, tmp_path, monkeypatch, log, num_records):
    """Files of 6, 7 and 7 images: killed before the first, between two and within one."""
    prepare(config(photos, tmp_path / "whole"))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        Stopped(patch, num_records, KeyboardInterrupt())
        prepare(config(photos, tmp_path / "cut"))
    for name in ("train-00002-of-00003.tfrecord.123.tmp", "unfinished.json.0123456789abcdef.tmp"):
        (tmp_path / "cut" / name).write_text("of a killed process")
    finished = sorted((tmp_path / "cut").glob("*.tfrecord"))
    assert len(finished) == {0: 0, 6: 1, 10: 1, 19: 2}[num_records]
    assert not (tmp_path / "cut" / "manifest.json").exists()
    before = [path.stat().st_ino for path in finished]
    prepare(config(photos, tmp_path / "cut"))
    assert f"{3 - len(finished)} of 3 files still to be written" in log.text
    assert files(tmp_path / "cut") == files(tmp_path / "whole")
    assert [path.stat().st_ino for path in finished] == before  # They are not written again.


def test_second_process_is_refused_and_the_first_ends_as_if_alone(out, photos, tmp_path, monkeypatch):
    prepare(config(photos, tmp_path / "alone"))
    messages = []

    def record(row, make=prepared_files._record):
        if not messages:
            messages.append(refusal(photos, out))
        return make(row)

    monkeypatch.setattr(prepared_files, "_record", record)
    prepare(config(photos, out))
    assert messages[0].startswith(f"--output={out}: another process writes there (host ")
    assert files(out) == files(tmp_path / "alone")


def test_overwriting_begins_anew_and_then_goes_on(out, photos, monkeypatch):
    prepare(config(photos, out))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt, match="without --overwrite"):
        Stopped(patch, 10, KeyboardInterrupt())
        prepare(config(photos, out, overwrite=True))
    (finished,) = out.glob("*.tfrecord")
    before = finished.read_bytes()
    # Resuming compares sizes and does not see this.
    finished.write_bytes(before[::-1])
    with monkeypatch.context() as patch:
        Stopped(patch, 0, tf.errors.ResourceExhaustedError(None, None, "No space left on device"))
        message = refusal(photos, out, overwrite=True)
    assert message.endswith("start the same command again without --overwrite: it goes on from there.")
    prepare(config(photos, out))
    assert finished.read_bytes() == before


def test_finished_output_is_described_and_not_converted_again(out, photos, monkeypatch, log):
    prepare(config(photos, out))
    before = files(out)
    assert re.search(r"^train: 20 images in 3 files, \d+\.\d kB\.$", "\n".join(log.messages), re.MULTILINE)
    assert f"python -m tf_simclr --flagfile=photos --dataset=tfrecord:{out}" in log.text
    log.clear()
    monkeypatch.setattr(module, "convert_files", None)
    prepare(config(photos, out))
    assert f"Already prepared: {out}." in log.messages
    assert "train: 20 images in 3 files" in log.text
    assert files(out) == before


def test_lost_and_damaged_files_are_written_again(out, photos):
    (photos / NAMES[3]).write_bytes(b"")
    prepare(config(photos, out))
    before = files(out)
    first, second, _ = sorted((out).glob("*.tfrecord"))
    first.unlink()
    second.write_bytes(second.read_bytes()[:-1])
    prepare(config(photos, out))
    assert files(out) == before


def test_full_disk_keeps_finished_files(out, photos, monkeypatch):
    full = tf.errors.ResourceExhaustedError(None, None, "No space left on device")
    with monkeypatch.context() as patch:
        Stopped(patch, 8, full)
        message = refusal(photos, out)
    what = "cannot write train-00001-of-00003.tfrecord (No space left on device); free some space"
    assert message == f"--output={out}: {what} and start the same command again: it goes on from there."
    assert sorted(files(out)) == ["train-00000-of-00003.tfrecord", "unfinished.json"]
    prepare(config(photos, out))
    assert len(files(out)) == 4


PARENT = """
    import contextlib, multiprocessing, time
    from tf_simclr.preparation import prepare
    from tf_simclr.config import DataConfig, PrepareConfig

    if __name__ == "__main__":
        config = PrepareConfig(data=DataConfig(dataset="folder:x"), output="y", prepare_workers=2)
        with prepare._start_workers(config) as convert:
            list(convert(["none"] * 100))
            print(*(child.pid for child in multiprocessing.active_children()), flush=True)
            time.sleep(60)
"""


@pytest.mark.slow
def test_processes_end_with_the_one_that_started_them(tmp_path):
    (tmp_path / "parent.py").write_text(textwrap.dedent(PARENT))
    command = [sys.executable, str(tmp_path / "parent.py")]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as parent:
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        parent.kill()
    assert len(pids) == 2
    deadline = time.monotonic() + 30
    while any(os.path.exists(f"/proc/{pid}") for pid in pids):
        assert time.monotonic() < deadline, "the processes are still there"
        time.sleep(0.1)


@pytest.mark.slow
def test_process_that_is_ended_from_outside_is_told(out, photos, monkeypatch):
    monkeypatch.setattr(module, "start_worker", os.abort)
    message = refusal(photos, out, prepare_workers=2)
    assert message.startswith("--prepare_workers=2: one of 2 processes was ended from outside")
