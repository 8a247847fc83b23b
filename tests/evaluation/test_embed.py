"""Features of a data set in files: contents, continuing after an interruption, and bad input."""

import json
import os

import numpy as np
import pyarrow.parquet
import pytest
import tensorflow as tf

from tests.evaluation.conftest import SIZE, eager_batches, refusal
from tests.support.marks import usual
from tests.support.runs import finished_run, run_program, write_images
from tf_simclr.augment import EvalView
from tf_simclr.config import DataConfig, EmbedConfig
from tf_simclr.data import eval_dataset
from tf_simclr.evaluation import embed as module
from tf_simclr.evaluation import features as passes
from tf_simclr.evaluation.embed import embed
from tf_simclr.terminal import progress

PHOTOS = [f"cat/{number:03}.png" for number in range(5)] + [f"dog/{number:03}.png" for number in range(5)]


@pytest.fixture(autouse=True)
def _quick_network(pixel_network, monkeypatch):
    monkeypatch.setattr(module, "load_inference_network", lambda path: pixel_network)
    monkeypatch.setattr(passes, "eval_dataset", eager_batches)


@pytest.fixture
def photos(tmp_path):
    """A folder of ten images in two classes."""
    for seed, name in enumerate(("cat", "dog")):
        write_images(tmp_path / "photos" / name, 5, seed=seed)
    return tmp_path / "photos"


def config(dataset, output, **settings):
    data = DataConfig(dataset=dataset if dataset == "digits" else f"folder:{dataset}", max_bad_image_fraction=0.5)
    return EmbedConfig(data=data, output=str(output), **({"checkpoint": "run", "eval_batch_size": 4} | settings))


def expected_of(folder, names):
    images = tf.stack([tf.io.decode_png((folder / name).read_bytes()) for name in names])
    return EvalView(image_size=SIZE)(images).numpy()


def read(path):
    """Returns features, labels and names of one file of any format, with the users' libraries."""
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
    shape = values[0]["shape"].int64_list.value
    features = np.array([np.reshape(value["features"].float_list.value, shape) for value in values], np.float32)
    labels = np.array([value["labels"].int64_list.value[0] for value in values])
    return features, labels, [value["names"].bytes_list.value[0].decode() for value in values]


def files(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.slow
@pytest.mark.parametrize(("extension", "endpoint"), [("npz", "default"), ("parquet", "map"), ("tfrecord", "map")])
def test_file_has_features_labels_and_names(photos, tmp_path, extension, endpoint):
    path = tmp_path / "out" / f"features.{extension}"
    embed(config(photos, path, endpoint=endpoint))
    features, labels, names = read(path)
    assert names == PHOTOS
    np.testing.assert_array_equal(labels, [0] * 5 + [1] * 5)
    assert features.dtype == np.float32
    expected = expected_of(photos, names)
    np.testing.assert_allclose(features, expected.reshape(features.shape), rtol=1e-4, atol=1e-5)
    assert features.shape == ((10, 192) if endpoint == "default" else (10, SIZE, SIZE, 3))
    manifest = json.loads((tmp_path / "out" / f"features.{extension}.json").read_text())
    assert manifest["contents"]["class_names"] == ["cat", "dog"]
    assert sorted(files(tmp_path / "out")) == [path.name, f"{path.name}.json"]


@pytest.mark.slow
@pytest.mark.parametrize("num_batches", usual(2, also=[1, 3, 4]))
def test_interrupted_output_continues_to_the_same_bytes(photos, tmp_path, monkeypatch, num_batches):
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
    assert len(seen) == 5 - 2 * finished  # Finished files are not computed again.
    assert files(tmp_path / "cut") == files(tmp_path / "whole")


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
        digests.append(tuple(module._image_states(["a", "b"], map(str, paths))))
    assert len(set(digests)) == len(digests)
    assert digests[0] == (b"a", b"b", b"1 1", b"1 1")


@pytest.mark.slow
def test_unreadable_images_are_left_out_and_named(photos, tmp_path, log, monkeypatch):
    monkeypatch.setattr(passes, "eval_dataset", eval_dataset)  # The real one: it decides what is readable.
    (photos / "cat" / "002.png").write_bytes(b"")
    (photos / "dog" / "004.png").write_text("no image")
    embed(config(photos, tmp_path / "out" / "f.npz", shard_size=3))
    paths = [tmp_path / "out" / f"f-0000{number}-of-00004.npz" for number in range(4)]
    assert sorted(files(tmp_path / "out")) == [*(path.name for path in paths), "f.npz.json"]
    rows = [read(path) for path in paths]
    kept = [name for name in PHOTOS if name not in ("cat/002.png", "dog/004.png")]
    assert [name for _, _, names in rows for name in names] == kept
    assert [label for _, labels, _ in rows for label in labels] == [0] * 4 + [1] * 4
    features = np.concatenate([features for features, _, _ in rows])
    np.testing.assert_allclose(features, expected_of(photos, kept).reshape([8, 192]), rtol=1e-4, atol=1e-5)
    assert "Left out 2 unreadable images: cat/002.png, dog/004.png." in log.text


def test_too_many_unreadable_images_stop(photos, tmp_path):
    for number in range(6):
        (photos / PHOTOS[number]).write_bytes(b"")
    message = refusal(embed, config(photos, tmp_path / "f.npz"))
    assert message.startswith("--max_bad_image_fraction=0.5: 6 of 10 images of folder:")
    assert not (tmp_path / "f.npz").exists()


def test_flat_folder_with_any_names_has_no_labels(tmp_path):
    folder = write_images(tmp_path / "flat", 3)
    (folder / "001.png").rename(folder / "Füße 猫.png")
    embed(config(folder, tmp_path / "f.parquet"))
    _, labels, names = read(tmp_path / "f.parquet")
    assert names == ["000.png", "002.png", "Füße 猫.png"]
    np.testing.assert_array_equal(labels, [-1] * 3)


@pytest.mark.slow
@pytest.mark.exhaustive
def test_names_in_a_folder_with_any_bytes_in_its_own_name_are_relative(tmp_path):
    """Runs the program: standard output cannot take such names."""
    folder = write_images(tmp_path / os.fsdecode(b"photos\xff") / "cat", 2).parent
    arguments = [f"--checkpoint={finished_run().directory}", f"--dataset=folder:{folder}"]
    done = run_program("--mode=embed", *arguments, f"--output={tmp_path}/f.npz")
    assert done.returncode == 0, done.stderr
    assert "photos\\udcff" in done.stdout
    assert "Wrote the features of 2 images: f.npz." in done.stdout
    assert "Logging error" not in done.stderr
    assert read(tmp_path / "f.npz")[2] == ["cat/000.png", "cat/001.png"]


def test_progress_is_shown(photos, tmp_path, monkeypatch, log):
    monkeypatch.setattr(progress, "_SECONDS_BETWEEN_LINES", 0)
    embed(config(photos, tmp_path / "f.npz"))
    lines = [message for message in log.messages if message.endswith(" left")]
    assert [line.split(" images")[0] for line in lines] == ["4/10", "8/10", "10/10"]


def test_file_that_would_not_fit_in_memory_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_MAX_BYTES", 4 * 192 * 100)
    message = refusal(embed, config("digits", tmp_path / "f.npz"))
    assert message.startswith("--shard_size=50000: default [192] takes 0.0 MiB an image")
    assert message.endswith("use at most 100.")
    assert not list(tmp_path.glob("f.npz*"))
