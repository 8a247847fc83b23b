"""Files of features: continuing after whatever stops a process, and files that are never replaced unasked."""

import json

import numpy as np
import pytest

from tests.evaluation.conftest import refusal
from tf_simclr.config import UserError
from tf_simclr.evaluation import feature_files
from tf_simclr.evaluation.feature_files import FeatureFiles, Rows

NUM_IMAGES = 10
CONTENTS = {"dataset": "digits", "split": "train", "endpoint": "default", "shard_size": 4, "weights": "w"}
CONTENTS |= {"images": "i", "class_names": ["a", "b"]}
REPLACE = "use another name, or replace it with --overwrite=True."


def start(path, *, overwrite=False, checkpoint="run/ckpt-1", **changes):
    files = FeatureFiles(str(path), overwrite=overwrite)
    with files.owning(CONTENTS | changes, num_images=NUM_IMAGES, checkpoint=checkpoint):
        pass
    return files


def write_missing(files):
    for shard in files.missing:
        numbers = np.arange(shard.start, shard.stop)
        names = [f"image {number}" for number in numbers]
        files.write(shard, Rows(np.float32(numbers)[:, np.newaxis], np.int32(numbers % 2), names), [])


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def path(tmp_path):
    (tmp_path / "out").mkdir()
    return tmp_path / "out" / "f.npz"


# ---- One process at a time


def test_second_process_is_refused_and_nothing_of_the_first_is_deleted(path):
    files = FeatureFiles(str(path), overwrite=False)
    with files.owning(CONTENTS, num_images=NUM_IMAGES, checkpoint="run/ckpt-1"):
        (path.parent / "f-00000-of-00003.npz.0123456789abcdef.tmp").touch()
        before = contents(path.parent)
        assert f"--output={path}: another process writes there (host " in refusal(start, path)
        assert contents(path.parent) == before
        write_missing(files)
    assert "exists already" in refusal(start, path)


def test_leftovers_of_killed_processes_are_deleted(path):
    kept = "g.npz.0123456789abcdef.tmp"
    for name in ("f.npz.json.123.tmp", "f-00001-of-00003.npz.0123456789abcdef.tmp", kept):
        (path.parent / name).touch()
    start(path)
    assert set(contents(path.parent)) == {"f.npz.json", kept}


# ---- Continuing


@pytest.mark.parametrize("shard_size", [4, NUM_IMAGES], ids=["files", "file"])
@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()], ids=repr)
@pytest.mark.parametrize("count", [1, 2, 3])
def test_output_stopped_at_its_manifest_continues(path, tmp_path, monkeypatch, shard_size, moment, error, count):
    """At the first, second, ... time that the manifest is written, and just before or just after."""
    real, calls = feature_files.write_json, []

    def stop(*arguments):
        calls.append(arguments)
        if moment == "after" or len(calls) != count:
            real(*arguments)
        if len(calls) == count:
            raise error

    monkeypatch.setattr(feature_files, "write_json", stop)
    try:
        write_missing(start(path, shard_size=shard_size))
    except KeyboardInterrupt:
        pass
    except UserError as refused:
        goes_on = "start the same command again: it goes on from there." in str(refused)
        assert goes_on or str(refused).startswith(f"--output={path}: cannot be written (")
    monkeypatch.undo()
    last = 1 + -(-NUM_IMAGES // shard_size)
    if count < last or (count == last and moment == "before"):
        write_missing(start(path, shard_size=shard_size))
    (tmp_path / "whole").mkdir()
    write_missing(start(tmp_path / "whole" / "f.npz", shard_size=shard_size))
    assert contents(path.parent) == contents(tmp_path / "whole")


def test_full_disk_keeps_the_finished_files(path, monkeypatch):
    save, calls = feature_files.save_npz, []

    def fill(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        save(*arguments)

    monkeypatch.setattr(feature_files, "save_npz", fill)
    message = refusal(write_missing, start(path))
    assert "cannot write f-00001-of-00003.npz ([Errno 28] No space left on device); free some space" in message
    assert sorted(contents(path.parent)) == ["f-00000-of-00003.npz", "f.npz.json"]
    write_missing(start(path))
    assert len(calls) == 4


def test_settings_may_change_until_a_file_is_finished(path):
    start(path, endpoint="logits_sup")
    write_missing(start(path))
    assert refusal(start, path, endpoint="logits_sup") == f"--output={path}: exists already; {REPLACE}"
    (path.parent / "f-00001-of-00003.npz").unlink()
    before = contents(path.parent)
    for changes, difference in (
        ({"endpoint": "logits_sup"}, "--endpoint=default, not logits_sup"),
        ({"weights": "v", "checkpoint": "run/ckpt-2"}, "the weights of ckpt-1, not of run/ckpt-2"),
        ({"images": "j"}, "other images"),
    ):
        assert refusal(start, path, **changes) == f"--output={path}: exists with {difference}; {REPLACE}"
    assert contents(path.parent) == before


def test_file_that_the_manifest_does_not_have_yet_belongs_to_its_settings(path, monkeypatch):
    files = start(path)
    monkeypatch.setattr(files, "_write_manifest", lambda: None)
    write_missing(files)
    before = contents(path.parent)
    assert "exists with --endpoint=default, not logits_sup" in refusal(start, path, endpoint="logits_sup")
    assert contents(path.parent) == before


# ---- Files of others


def manifest(**changes):
    return json.dumps({"contents": CONTENTS, "checkpoint": "c", "num_images": 10, "files": {}} | changes)


FOREIGN = {
    "another": '{"mine": 1}',
    "no JSON": "notes",
    "entry": manifest(files={"f-00000-of-00003.npz": 1}),
    "shard size": manifest(contents=CONTENTS | {"shard_size": 0}),
    "no images": manifest(num_images=0),
    "names": manifest(files={"f-00000-of-00003.npz": {"num_rows": 1, "num_bytes": 1, "unreadable": [1]}}),
}


@pytest.mark.parametrize("text", FOREIGN.values(), ids=FOREIGN)
def test_file_in_the_place_of_the_manifest_is_replaced_only_where_asked(path, text):
    manifest = path.with_suffix(".npz.json")
    manifest.write_text(text)
    assert refusal(start, path) == f"--output={path}: exists already; {REPLACE}"
    assert manifest.read_text() == text
    write_missing(start(path, overwrite=True))
    assert json.loads(manifest.read_text())["contents"] == CONTENTS


def test_overwriting_deletes_the_files_of_the_manifest_and_no_others(path):
    write_missing(start(path))
    mine = [path.parent / name for name in ("f-00000-of-00099.npz", "f-notes.npz", "g.npz", "f.npy")]
    for file in mine:
        file.write_text("mine")
    write_missing(start(path, overwrite=True, shard_size=NUM_IMAGES))
    assert sorted(contents(path.parent)) == sorted(["f.npz", "f.npz.json", *(file.name for file in mine)])
    assert {file.read_text() for file in mine} == {"mine"}
    (path.parent / "f.npz.json").unlink()
    assert refusal(start, path) == f"--output={path}: exists already; {REPLACE}"


def test_output_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    path = tmp_path / "file" / "f.npz"
    assert refusal(start, path).startswith(f"--output={path}: cannot be written (")
    (tmp_path / "f.npz").mkdir()
    assert "is a directory; name a file" in refusal(start, tmp_path / "f.npz")
    assert "write to a local file" in refusal(start, "gs://bucket/f.npz")
