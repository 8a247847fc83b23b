"""Preparing a folder: damaged images, and bad input."""

import errno
import json
import os
import pickle

import pytest

from flags.convert import parse_command_line
from tests.preparation.support import NAMES, config, files, manifest_of, read, refusal
from tests.support.runs import write_images
from tf_simclr.config import DataConfig, PrepareConfig, UserError
from tf_simclr.data import load_source
from tf_simclr.data.manifest import new_manifest
from tf_simclr.preparation import convert as image_files
from tf_simclr.preparation import prepare as module
from tf_simclr.preparation.prepare import prepare, training_flags
from tf_simclr.preparation.record_writer import PreparedFiles

# ---- Damaged images


def test_unreadable_images_are_left_out_counted_and_listed(out, photos, tmp_path, log):
    bad = ["cat/002.png", "dog/004.png"]
    for name in bad:
        (photos / name).write_text("no image")
    prepare(config(photos, out))
    rows = [row for path in sorted((out).glob("*.tfrecord")) for row in read(path)]
    assert sorted(name for name, _, _ in rows) == [name for name in NAMES if name not in bad]
    split = manifest_of(out)["splits"]["train"]
    assert (split["num_examples"], split["num_unreadable"]) == (18, 2)
    problem = "is no JPEG, PNG, BMP, GIF, WebP, TIFF or PPM image"
    lines = (out / "unreadable.txt").read_text().splitlines()
    assert sorted(lines) == [f"{name}\t{problem}" for name in bad]
    assert f"Left out 2 unreadable images, listed in {tmp_path / 'out' / 'unreadable.txt'}: " in log.text


def test_too_many_unreadable_images_stop_until_they_are_tolerated(out, photos):
    for number in range(6):
        (photos / NAMES[number]).rename((photos / NAMES[number]).with_suffix(".tif")).write_bytes(b"")
    message = refusal(photos, out, max_bad_image_fraction=0.1)
    assert message.startswith("--max_bad_image_fraction=0.1: 6 of 20 images of folder:")
    assert message.endswith(".tif; fix or remove them, or tolerate a larger share.")  # It does not recommend itself.
    prepare(config(photos, out, max_bad_image_fraction=0.3))
    assert manifest_of(out)["splits"]["train"]["num_examples"] == 14


@pytest.mark.parametrize(
    ("error", "problem"),
    [
        (OSError(errno.EIO, "Input/output error"), "Input/output error"),
        (MemoryError(), "memory ran out: use fewer --prepare_workers"),
    ],
)
def test_possibly_intact_image_is_not_left_out(out, photos, tmp_path, monkeypatch, error, problem):
    """The second of three files cannot be read at first."""
    prepare(config(photos, tmp_path / "whole"))
    name = read(tmp_path / "whole" / "train-00001-of-00003.tfrecord")[1][0]

    def open_or_fail(path, mode):
        if path == str(photos / name):
            raise error
        return open(path, mode)

    with monkeypatch.context() as patch:
        patch.setattr(image_files, "open", open_or_fail, raising=False)
        message = refusal(photos, out, max_bad_image_fraction=1)
    what = f"{photos / name} could not be read ({problem}); fix that"
    assert message == f"--dataset=folder:{photos}: {what} and start the same command again: it goes on from there."
    assert sorted(files(out)) == ["train-00000-of-00003.tfrecord", "unfinished.json"]
    prepare(config(photos, out))
    assert files(out) == files(tmp_path / "whole")


def test_folder_that_vanishes_stops(out, photos, tmp_path, monkeypatch):
    def unmount(splits):
        photos.rename(tmp_path / "unmounted")
        return []

    monkeypatch.setattr(module, "_image_states", unmount)
    assert "(its folder is gone); fix that and start" in refusal(photos, out)


def test_unknown_state_of_an_image_stops(out, photos, monkeypatch):
    """Otherwise the same images would seem to be others later."""
    stat = os.stat

    def stat_or_fail(path, **options):
        if path == str(photos / NAMES[3]):
            raise PermissionError(errno.EACCES, "Permission denied")
        return stat(path, **options)

    monkeypatch.setattr(os, "stat", stat_or_fail)
    message = refusal(photos, out)
    assert f"{photos / NAMES[3]} could not be read (Permission denied)" in message
    assert not (out).exists()


def test_reading_error_reaches_the_parent_process():
    error = pickle.loads(pickle.dumps(image_files.ReadError("a.jpg", "Permission denied")))
    assert (error.path, error.problem) == ("a.jpg", "Permission denied")


# ---- Bad input


def test_output_of_other_settings_is_refused_and_kept(out, photos):
    prepare(config(photos, out))
    before = files(out)
    fix = "; use another directory, or start again with --overwrite=True."
    settings = f"--output={out}: was prepared with --prepare_short_side=0, not 8, --seed=0, not 1"
    assert refusal(photos, out, prepare_short_side=8, seed=1) == f"{settings}{fix}"
    os.utime(photos / NAMES[0], ns=(0, 0))
    images = f"--output={out}: was prepared with other images, of folder:{photos.name}"
    assert refusal(photos, out) == f"{images}{fix}"
    (photos / NAMES[0]).unlink()
    assert "other images" in refusal(photos, out)
    assert files(out) == before


def test_overwriting_deletes_only_files_of_this_program(out, photos):
    (photos / NAMES[0]).write_bytes(b"")
    prepare(config(photos, out, prepare_shards=5))
    (out / "train-00007-of-00009.tfrecord").write_text("mine")
    manifest = manifest_of(out)
    del manifest["splits"]["train"]["files"][0]
    (out / "manifest.json").write_text(json.dumps(manifest))
    write_images(photos / "extra", 1)
    (photos / NAMES[0]).unlink()
    prepare(config(photos, out, overwrite=True))
    names = {f"train-{number:05}-of-00003.tfrecord" for number in range(3)}
    # The first of the old ones is no longer in the manifest.
    kept = {"train-00007-of-00009.tfrecord", "train-00000-of-00005.tfrecord"}
    assert set(files(out)) == {"manifest.json"} | names | kept


@pytest.mark.parametrize("damage", [{"num_shards": 10**9}, {"files": [{"name": "../a"}]}, {"num_images": -1}])
def test_damaged_manifest_is_none_of_ours(tmp_path, damage):
    manifest = new_manifest({}, None, {"train": (12, 3)})
    manifest["splits"]["train"] |= damage
    (tmp_path / "unfinished.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="holds files that were not prepared here"):
        PreparedFiles(str(tmp_path), overwrite=True)


def test_directory_of_others_is_refused(out, photos):
    (out).mkdir()
    (out / "manifest.json").write_text('{"format": "of another program"}')
    for overwrite in (False, True):
        message = "holds files that were not prepared here (manifest.json); name a new or an empty directory."
        assert refusal(photos, out, overwrite=overwrite) == f"--output={out}: {message}"
    assert list(files(out)) == ["manifest.json"]


def test_output_that_cannot_be_written_is_refused(out, photos, tmp_path):
    (tmp_path / "file").write_text("x")
    assert "cannot be read (Not a directory); name another" in refusal(photos, tmp_path / "file" / "out")
    assert "cannot be written (" in refusal(photos, "/proc/out")
    assert "write to a local directory" in refusal(photos, "gs://bucket/out")
    assert "lies in the folder of the images" in refusal(photos, photos / "out")
    assert not (photos / "out").exists()


def test_data_that_is_no_folder_is_refused(out, tmp_path):
    with pytest.raises(UserError, match=r"^--dataset=digits: only folders of images are prepared; name one as"):
        PrepareConfig(data=DataConfig(dataset="digits"), output="out")
    assert "does not exist" in refusal(tmp_path / "nothing", out)


def test_splits_of_other_classes_are_refused(out, splits):
    for name in ("cat", "horse"):
        write_images(splits / "test" / name, 1)
    message = "has 2 classes (cat, horse), the splits before it 2 classes (cat, dog); add a folder of each"
    assert message in refusal(splits, out)
    assert not (out).exists()


def test_split_that_lacks_a_class_keeps_the_labels_of_the_first(out, splits):
    write_images(splits / "test" / "dog", 2)
    prepare(config(splits, out))
    source = load_source(DataConfig(dataset=f"tfrecord:{out}"), "test")
    assert (source.class_names, source.read_labels().tolist()) == (("cat", "dog"), [1, 1])


@pytest.mark.parametrize(
    ("sizes", "num_classes", "more"),
    [
        ({"train": 64, "test": 10}, 2, []),
        ({"train": 20, "unlabelled": 30}, 3, ["--train_batch_size=50"]),
        ({"train": 20, "unlabelled": 44}, 3, []),
        ({"train": 100}, 0, ["--train_mode=pretrain"]),
        ({"train": 100}, 1, ["--train_mode=pretrain"]),
        ({"unlabelled": 9}, 0, ["--train_split=unlabelled", "--train_mode=pretrain", "--train_batch_size=9"]),
    ],
)
def test_suggested_flags_fit_the_prepared_files(sizes, num_classes, more):
    flags = training_flags("a b", sizes, num_classes)
    assert flags == ["--flagfile=photos", "--dataset=tfrecord:a b", *more]
    config, _ = parse_command_line(flags)
    stages = config.stages.values() if num_classes > 1 else [config]
    batches = {stage.train.train_batch_size for stage in stages if stage.train.train_mode in ("pretrain", "distill")}
    assert batches == {min(64, sum(sizes.values()))}
