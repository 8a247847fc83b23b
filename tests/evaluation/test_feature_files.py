"""Files of features: going on after whatever stops a process, and what is never replaced unasked."""

import json

import numpy as np
import pytest

from tf_simclr.config import UserError
from tf_simclr.evaluation import feature_files
from tf_simclr.evaluation.feature_files import FeatureFiles, Rows

NUM_IMAGES = 10
CONTENTS = {
    "dataset": "digits",
    "split": "train",
    "endpoint": "default",
    "shard_size": 4,
    "weights": "w",
    "class_names": ["a", "b"],
}


def start(path, *, overwrite=False, **changes):
    files = FeatureFiles(str(path), overwrite=overwrite)
    with files.owning(CONTENTS | changes, num_images=NUM_IMAGES, checkpoint="run/ckpt-1"):
        pass
    return files


def write_missing(files):
    for shard in files.missing:
        numbers = np.arange(shard.start, shard.stop)
        names = [f"image {number}" for number in numbers]
        files.write(shard, Rows(np.float32(numbers)[:, np.newaxis], np.int32(numbers % 2), names), [])


def refusal(function, *arguments, **settings):
    with pytest.raises(UserError) as error:
        function(*arguments, **settings)
    assert "\n" not in str(error.value)
    return str(error.value)


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


def test_what_killed_processes_have_left_is_deleted(path):
    for name in (
        "f.npz.json.123.tmp",
        "f-00001-of-00003.npz.0123456789abcdef.tmp",
        "g.npz.0123456789abcdef.tmp",
    ):
        (path.parent / name).touch()
    start(path)
    assert set(contents(path.parent)) == {"f.npz.json", "g.npz.0123456789abcdef.tmp"}


# ---- Going on


@pytest.mark.parametrize("shard_size", [4, NUM_IMAGES], ids=["files", "file"])
@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()], ids=repr)
@pytest.mark.parametrize("count", [1, 2, 3])
def test_output_stopped_at_its_manifest_goes_on(path, tmp_path, monkeypatch, shard_size, moment, error, count):
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


def test_settings_may_change_while_nothing_is_finished(path):
    start(path, endpoint="logits_sup")
    write_missing(start(path))
    message = refusal(start, path, endpoint="logits_sup", overwrite=False)
    assert message == (f"--output={path}: exists already; use another name, or replace it with --overwrite=True.")


def test_file_that_the_manifest_does_not_have_yet_belongs_to_its_settings(path, monkeypatch):
    files = start(path)
    monkeypatch.setattr(files, "_write_manifest", lambda: None)
    write_missing(files)
    before = contents(path.parent)
    assert refusal(start, path, endpoint="logits_sup") == (
        f"--output={path}: exists with --endpoint=default, not logits_sup; use another name, or replace it with "
        "--overwrite=True."
    )
    assert contents(path.parent) == before


# ---- What is somebody else's


FOREIGN = {
    "another": '{"mine": 1}',
    "no object": "[1, 2]",
    "no JSON": "notes",
    "empty": "",
    "nested": "[" * 100_000,
    "entry": json.dumps(
        {"contents": CONTENTS, "checkpoint": "c", "num_images": 10, "files": {"f-00000-of-00003.npz": 1}}
    ),
    "files": json.dumps({"files": {"a": {"num_rows": 1}}}),
    "shard size": json.dumps(
        {"contents": CONTENTS | {"shard_size": 0}, "checkpoint": "c", "num_images": 10, "files": {}}
    ),
    "no images": json.dumps({"contents": CONTENTS, "checkpoint": "c", "num_images": 0, "files": {}}),
    "names": json.dumps(
        {
            "contents": CONTENTS,
            "checkpoint": "c",
            "num_images": 10,
            "files": {"f-00000-of-00003.npz": {"num_rows": 1, "num_bytes": 1, "unreadable": [1]}},
        }
    ),
}


@pytest.mark.parametrize("text", FOREIGN.values(), ids=FOREIGN)
def test_file_in_the_place_of_the_manifest_is_replaced_only_where_asked(path, text):
    manifest = path.with_suffix(".npz.json")
    manifest.write_text(text)
    message = f"--output={path}: exists already; use another name, or replace it with --overwrite=True."
    assert refusal(start, path) == message
    assert manifest.read_text() == text
    write_missing(start(path, overwrite=True))
    assert json.loads(manifest.read_text())["contents"] == CONTENTS


def test_overwriting_deletes_what_the_manifest_names_and_nothing_else(path):
    write_missing(start(path))
    mine = [path.parent / name for name in ("f-00000-of-00099.npz", "f-notes.npz", "g.npz", "f.npy")]
    for file in mine:
        file.write_text("mine")
    write_missing(start(path, overwrite=True, shard_size=NUM_IMAGES))
    assert sorted(contents(path.parent)) == sorted(["f.npz", "f.npz.json", *(file.name for file in mine)])
    assert {file.read_text() for file in mine} == {"mine"}
