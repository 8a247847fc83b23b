"""Features of a data set in files: what is in them, going on after an interruption, and bad input."""

import io
import json
import os
import re
import shutil
import sys

import numpy as np
import pyarrow.parquet
import pytest
import tensorflow as tf

from tests.support.marks import usual
from tests.support.runs import TOTAL_STEPS, finished_run, run_program, write_images
from tf_simclr.augment import EvalView
from tf_simclr.config import DataConfig, EmbedConfig, UserError
from tf_simclr.evaluation import embed as module
from tf_simclr.evaluation import feature_files
from tf_simclr.evaluation import features as passes
from tf_simclr.evaluation.embed import embed
from tf_simclr.runs.networks import load_network
from tf_simclr.terminal import progress

COUNT = 10
PHOTOS = [f"cat/{number:03}.png" for number in range(5)] + [f"dog/{number:03}.png" for number in range(5)]


@pytest.fixture
def photos(tmp_path):
    """A folder of ten images in two classes."""
    for seed, name in enumerate(("cat", "dog")):
        write_images(tmp_path / "photos" / name, 5, seed=seed)
    return tmp_path / "photos"


def config(dataset, output, **settings):
    data = DataConfig(dataset=dataset if dataset == "digits" else f"folder:{dataset}", max_bad_image_fraction=0.5)
    given = {"checkpoint": str(finished_run().directory), "eval_batch_size": 4} | settings
    return EmbedConfig(data=data, output=str(output), **given)


def refusal(*arguments, **settings):
    with pytest.raises(UserError) as error:
        embed(config(*arguments, **settings))
    assert "\n" not in str(error.value)
    return str(error.value)


def expected_of(folder, names, endpoint="default"):
    images = tf.stack([tf.io.decode_png((folder / name).read_bytes()) for name in names])
    network = load_network(str(finished_run().directory), "checkpoint")
    return network(EvalView(image_size=8)(images), training=False)[endpoint].numpy()


def read(path):
    """Returns features, labels and names of one file of any format, with what users have."""
    if path.suffix == ".npz":
        content = np.load(path, allow_pickle=False)
        return content["features"], content["labels"], content["names"].tolist()
    if path.suffix == ".parquet":
        table = pyarrow.parquet.read_table(path)
        shape = json.loads(table.schema.metadata[b"shape"])
        features = np.stack(table["features"].to_numpy()).reshape([-1, *shape])
        return features, table["labels"].to_numpy(), table["names"].to_pylist()
    rows = [tf.train.Example.FromString(record.numpy()) for record in tf.data.TFRecordDataset(str(path))]
    values = [row.features.feature for row in rows]
    return (
        np.array(
            [np.reshape(v["features"].float_list.value, v["shape"].int64_list.value) for v in values],
            np.float32,
        ),
        np.array([v["labels"].int64_list.value[0] for v in values]),
        [v["names"].bytes_list.value[0].decode() for v in values],
    )


def files(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("extension", "endpoint"),
    [
        ("npz", "logits_sup"),
        ("parquet", "default"),
        ("parquet", "block_group3"),
        ("tfrecord", "block_group3"),
    ],
)
def test_file_has_features_labels_and_names(photos, tmp_path, extension, endpoint):
    path = tmp_path / "out" / f"features.{extension}"
    embed(config(photos, path, endpoint=endpoint))
    features, labels, names = read(path)
    assert names == PHOTOS
    np.testing.assert_array_equal(labels, [0] * 5 + [1] * 5)
    assert features.dtype == np.float32
    np.testing.assert_allclose(features, expected_of(photos, names, endpoint), rtol=1e-4, atol=1e-5)
    manifest = json.loads((tmp_path / "out" / f"features.{extension}.json").read_text())
    assert manifest["contents"]["class_names"] == ["cat", "dog"]
    assert sorted(files(tmp_path / "out")) == [path.name, f"{path.name}.json"]


@pytest.mark.slow
def test_saved_model_gives_what_its_run_gives(photos, tmp_path):
    saved_model = finished_run().directory / "saved_model" / str(TOTAL_STEPS)
    for name, checkpoint in (("run", finished_run().directory), ("module", saved_model)):
        embed(config(photos, tmp_path / f"{name}.npz", checkpoint=str(checkpoint)))
    np.testing.assert_allclose(read(tmp_path / "run.npz")[0], read(tmp_path / "module.npz")[0], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_many_images_become_several_files(photos, tmp_path):
    embed(config(photos, tmp_path / "one.npz"))
    embed(config(photos, tmp_path / "out" / "many.npz", shard_size=4))
    names = [f"many-{number:05}-of-00003.npz" for number in range(3)]
    assert sorted(files(tmp_path / "out")) == [*names, "many.npz.json"]
    parts = [read(tmp_path / "out" / name) for name in names]
    assert [len(labels) for _, labels, _ in parts] == [4, 4, 2]
    features, labels, own_names = read(tmp_path / "one.npz")
    np.testing.assert_allclose(np.concatenate([part[0] for part in parts]), features, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(np.concatenate([part[1] for part in parts]), labels)
    assert [name for _, _, part in parts for name in part] == own_names


@pytest.mark.slow
@pytest.mark.parametrize("num_batches", usual(2, also=[1, 3, 4]))
def test_interrupted_output_goes_on_to_the_same_bytes(photos, tmp_path, monkeypatch, num_batches):
    """Two batches a file, the second of them filled up: killed within files and between them."""
    settings = {"shard_size": 4, "eval_batch_size": 3}
    embed(config(photos, tmp_path / "whole" / "f.npz", **settings))
    batches = passes.feature_batches
    seen = []

    def stop(*arguments):
        for batch in batches(*arguments):
            if len(seen) == num_batches:
                raise KeyboardInterrupt
            seen.append(batch)
            yield batch

    monkeypatch.setattr(passes, "feature_batches", stop)
    with pytest.raises(KeyboardInterrupt):
        embed(config(photos, tmp_path / "cut" / "f.npz", **settings))
    (tmp_path / "cut" / "f-00002-of-00003.npz.123.tmp").write_text("of a killed process")
    finished = num_batches // 2
    assert len(list((tmp_path / "cut").glob("*.npz"))) == finished
    seen.clear()
    monkeypatch.setattr(passes, "feature_batches", lambda *a: (seen.append(b) or b for b in batches(*a)))
    embed(config(photos, tmp_path / "cut" / "f.npz", **settings))
    assert len(seen) == 5 - 2 * finished  # What is finished is not computed again.
    assert files(tmp_path / "cut") == files(tmp_path / "whole")


@pytest.mark.slow
def test_unfinished_output_of_other_settings_is_refused_and_kept(photos, tmp_path):
    path = tmp_path / "out" / "f.npz"
    embed(config(photos, path, shard_size=4))
    (tmp_path / "out" / "f-00001-of-00003.npz").unlink()
    before = files(tmp_path / "out")
    assert refusal(photos, path, shard_size=5) == (
        f"--output={path}: exists with --shard_size=4, not 5; use another name, or replace it with --overwrite=True."
    )
    checkpoint = str(finished_run().directory / "ckpt-2")
    assert "exists with the weights of ckpt-" in refusal(photos, path, shard_size=4, checkpoint=checkpoint)
    os.utime(photos / PHOTOS[0], ns=(0, 0))
    assert "exists with other images; use another name" in refusal(photos, path, shard_size=4)
    assert files(tmp_path / "out") == before


def test_images_are_other_ones_in_another_size_or_time(tmp_path):
    paths = [tmp_path / name for name in ("a", "b")]
    for path in paths:
        path.write_text("x")
        os.utime(path, ns=(1, 1))
    digests = []
    for change in (
        lambda: None,
        lambda: os.utime(paths[1], ns=(2, 2)),
        lambda: (paths[1].write_text("xx"), os.utime(paths[1], ns=(2, 2))),
        paths[1].unlink,
    ):
        change()
        digests.append(list(module._image_states(["a", "b"], map(str, paths))))
    assert len(set(map(tuple, digests))) == len(digests)
    assert digests[0] == [b"a", b"b", b"1 1", b"1 1"]


@pytest.mark.slow
def test_output_that_exists_is_replaced_where_asked(photos, tmp_path):
    path = tmp_path / "out" / "f.npz"
    embed(config(photos, path, shard_size=4))
    (tmp_path / "out" / "f.npy").write_text("mine")
    (tmp_path / "out" / "f-notes.npz").write_text("mine")
    message = f"--output={path}: exists already; use another name, or replace it with --overwrite=True."
    assert refusal(photos, path, shard_size=4) == message
    embed(config(photos, path, shard_size=4, overwrite=True))
    embed(config(photos, path, overwrite=True))
    assert sorted(files(tmp_path / "out")) == ["f-notes.npz", "f.npy", "f.npz", "f.npz.json"]
    (tmp_path / "out" / "f.npz.json").unlink()
    assert refusal(photos, path) == message


@pytest.mark.slow
def test_unreadable_images_are_left_out_and_named(photos, tmp_path, log):
    (photos / "cat" / "002.png").write_bytes(b"")
    (photos / "dog" / "004.png").write_text("no image")
    embed(config(photos, tmp_path / "f.npz", shard_size=3))
    rows = [read(tmp_path / f"f-0000{number}-of-00004.npz") for number in range(4)]
    kept = [name for name in PHOTOS if name not in ("cat/002.png", "dog/004.png")]
    assert [name for _, _, names in rows for name in names] == kept
    features = np.concatenate([features for features, _, _ in rows])
    np.testing.assert_allclose(features, expected_of(photos, kept), rtol=1e-4, atol=1e-5)
    assert "Left out 2 unreadable images: cat/002.png, dog/004.png." in log.text


@pytest.mark.slow
def test_too_many_unreadable_images_stop(photos, tmp_path):
    for number in range(6):
        (photos / PHOTOS[number]).write_bytes(b"")
    assert refusal(photos, tmp_path / "f.npz").startswith("--max_bad_image_fraction=0.5: 6 of 10 images of folder:")
    assert not (tmp_path / "f.npz").exists()


@pytest.mark.slow
def test_flat_folder_with_any_names_has_no_labels(tmp_path):
    folder = write_images(tmp_path / "flat", 3)
    (folder / "001.png").rename(folder / "Füße 猫.png")
    embed(config(folder, tmp_path / "f.parquet"))
    _, labels, names = read(tmp_path / "f.parquet")
    assert names == ["000.png", "002.png", "Füße 猫.png"]
    np.testing.assert_array_equal(labels, [-1] * 3)


@pytest.mark.slow
def test_names_in_a_folder_with_any_bytes_in_its_own_name_are_relative(tmp_path):
    """In a program of its own, as pytest cannot pass such names on, and standard output could not take them."""
    folder = write_images(tmp_path / os.fsdecode(b"photos\xff") / "cat", 2).parent
    arguments = [f"--checkpoint={finished_run().directory}", f"--dataset=folder:{folder}"]
    done = run_program("--mode=embed", *arguments, f"--output={tmp_path}/f.npz")
    assert done.returncode == 0, done.stderr
    assert "photos\\udcff" in done.stdout
    assert "Logging error" not in done.stderr
    assert read(tmp_path / "f.npz")[2] == ["cat/000.png", "cat/001.png"]


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.slow
def test_progress_is_a_bar_on_a_terminal(photos, tmp_path, monkeypatch, log):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    embed(config(photos, tmp_path / "f.npz"))
    assert "10/10" in terminal.getvalue()
    assert " images/s" in terminal.getvalue()
    assert " left" not in log.text


@pytest.mark.slow
def test_progress_elsewhere_is_a_line_now_and_then(photos, tmp_path, monkeypatch, log):
    monkeypatch.setattr(progress, "_SECONDS_BETWEEN_LINES", 0)
    embed(config(photos, tmp_path / "f.npz"))
    lines = [message for message in log.messages if message.endswith(" left")]
    assert [line.split(" images")[0] for line in lines] == ["4/10", "8/10", "10/10"]
    assert all(re.fullmatch(r"\d+/10 images \| [ \d.?]+ images/s \| [\d:?]+ left", line) for line in lines)


@pytest.mark.slow
def test_digits_are_named_by_their_number(tmp_path):
    embed(config("digits", tmp_path / "f.npz", split="test[:20]", eval_batch_size=20))
    assert read(tmp_path / "f.npz")[2][:2] == ["example 0", "example 1"]


# ---- Bad input


@pytest.mark.slow
def test_endpoint_that_does_not_exist_is_answered_with_those_that_do(photos, tmp_path):
    message = refusal(photos, tmp_path / "f.npz", endpoint="block_group5")
    assert message.startswith("--endpoint=block_group5: ")
    assert "block_group4, default, final_avg_pool" in message
    assert not list(tmp_path.glob("f.npz*"))


@pytest.mark.slow
@pytest.mark.parametrize("network", ["nothing", "folder", "steps", "project", "truncated", "module", "handle"])
def test_network_that_does_not_fit_is_refused(photos, tmp_path, network):
    path = tmp_path / "network"
    checkpoint, fix = str(path), "name "
    if network == "nothing":
        fix = "no such checkpoint"
    elif network == "folder":
        path.mkdir()
        fix = "no checkpoint in this directory; name one that has ckpt-* files, or a SavedModel"
    elif network == "steps":
        (path / "finetune").mkdir(parents=True)
        (path / "finetune" / "ckpt-3.index").write_text("x")
        fix = f"name one of its stages: {path / 'finetune'}"
    elif network == "project":
        tf.train.Checkpoint(weights=tf.Variable([1.0])).write(str(path / "ckpt-1"))
    elif network == "truncated":
        shutil.copytree(finished_run().directory, path, ignore=shutil.ignore_patterns("saved_model", "events*"))
        for data in path.glob("ckpt-*.data*"):
            data.write_bytes(data.read_bytes()[:1000])
        fix = "is damaged or cannot be read"
    elif network == "module":
        other = tf.Module()
        other.v = tf.Variable([1.0])
        tf.saved_model.save(other, str(path))
        fix = "cannot be called as module(images, trainable=False)"
    else:
        checkpoint, fix = "https://models.example/r50/1", "download the module, and name its folder"
    message = refusal(photos, tmp_path / "f.npz", checkpoint=checkpoint)
    assert message.startswith(f"--checkpoint={checkpoint}")
    assert fix in message
    assert not list(tmp_path.glob("f.npz*"))


@pytest.mark.slow
def test_folder_without_images_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    message = refusal(tmp_path / "empty", tmp_path / "f.npz")
    assert message.startswith(f"--dataset=folder:{tmp_path / 'empty'}: ")
    assert "holds no images" in message


def test_split_that_does_not_exist_is_refused(tmp_path):
    assert refusal("digits", tmp_path / "f.npz", split="validation").startswith("--split=validation: ")


def test_output_that_cannot_be_written_is_refused(photos, tmp_path):
    (tmp_path / "file").write_text("x")
    message = refusal(photos, tmp_path / "file" / "f.npz")
    assert message.startswith(f"--output={tmp_path / 'file' / 'f.npz'}: cannot be written (")
    (tmp_path / "f.npz").mkdir()
    assert "is a directory; name a file" in refusal(photos, tmp_path / "f.npz")
    assert "write to a local file" in refusal(photos, "gs://bucket/f.npz")


@pytest.mark.slow
def test_full_disk_keeps_what_is_finished(photos, tmp_path, monkeypatch):
    save, count = feature_files.save_npz, []

    def fill(path, arrays):
        count.append(path)
        if len(count) == 2:
            raise OSError(28, "No space left on device")
        save(path, arrays)

    monkeypatch.setattr(feature_files, "save_npz", fill)
    message = refusal(photos, tmp_path / "out" / "f.npz", shard_size=4)
    assert "cannot write f-00001-of-00003.npz ([Errno 28] No space left on device); free some space" in message
    assert sorted(files(tmp_path / "out")) == ["f-00000-of-00003.npz", "f.npz.json"]
    embed(config(photos, tmp_path / "out" / "f.npz", shard_size=4))
    assert len(files(tmp_path / "out")) == 4


@pytest.mark.slow
def test_file_that_would_not_fit_in_memory_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_MAX_BYTES", 4 * 64 * 100)
    message = refusal("digits", tmp_path / "f.npz", endpoint="default")
    assert message.startswith("--shard_size=50000: default [")
    assert not list(tmp_path.glob("f.npz*"))


@pytest.mark.slow
@pytest.mark.exhaustive
def test_program_embeds_and_says_where(photos, tmp_path):
    arguments = [f"--dataset=folder:{photos}", f"--output={tmp_path / 'f.npz'}"]
    done = run_program("--mode=embed", f"--checkpoint={finished_run().directory}", *arguments)
    assert done.returncode == 0, done.stderr
    assert "Wrote the features of 10 images: f.npz." in done.stdout
    assert (tmp_path / "f.npz").exists()
