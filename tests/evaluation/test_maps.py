"""A map of features, and bad input."""

import numpy as np
import pytest
import tensorflow as tf

from tests.evaluation.conftest import refusal
from tests.support.runs import write_images
from tf_simclr.config import DataConfig, EmbedConfig, UserError
from tf_simclr.evaluation import maps
from tf_simclr.evaluation.embed import embed
from tf_simclr.evaluation.features import Features


def config(output, dataset="digits", **settings):
    data = DataConfig(dataset=dataset, max_bad_image_fraction=0.5)
    given = {"checkpoint": "run", "eval_batch_size": 50, "split": "test[:40]"} | settings
    return EmbedConfig(data=data, output=str(output), **given)


@pytest.fixture(autouse=True)
def _quick_network(pixel_network, monkeypatch):
    monkeypatch.setattr(maps, "load_inference_network", lambda path: pixel_network)


@pytest.mark.slow
def test_picture_is_the_same_each_time_and_replaced_only_where_asked(tmp_path, monkeypatch, log):
    """Of more images than a map shows, with names that are hard to draw; two of them are unreadable."""
    for seed, name in enumerate(("_$cat$", "dog")):
        write_images(tmp_path / "photos" / name, 8, seed=seed)
    shown = []

    def compute(network, endpoint, source, **options):
        shown.append([source.example_name(row) for row in range(source.num_examples)])
        kept = np.arange(2, source.num_examples)
        features = np.random.default_rng(0).normal(size=(len(kept), 4)).astype(np.float32)
        return Features(features, source.read_labels()[kept], kept, shown[-1][:2])

    monkeypatch.setattr(maps, "MAX_POINTS", 12)
    monkeypatch.setattr(maps, "compute_features", compute)
    path, settings = tmp_path / "out" / "a.png", {"dataset": f"folder:{tmp_path / 'photos'}", "split": "train"}
    embed(config(path, **settings))
    picture = path.read_bytes()
    assert tf.io.decode_png(picture).shape[0] > 500
    assert "Map of 10 images of folder:" in log.text
    message = f"--output={path}: exists already; use another name, or replace it with --overwrite=True."
    assert refusal(embed, config(path, **settings)) == message
    path.write_text("")
    embed(config(path, overwrite=True, **settings))
    assert path.read_bytes() == picture
    assert shown[0] == shown[1]
    assert len(shown[0]) == 12
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["a.png"]


def test_images_that_cannot_be_drawn_are_refused(tmp_path, monkeypatch):
    output = tmp_path / "a.png"
    message = refusal(embed, config(output, endpoint="map"))
    assert message.startswith("--endpoint=map: is no vector but [8, 8, 3] for one image")
    few = Features(np.zeros([9, 4], np.float32), np.zeros(9, np.int32), np.arange(9), [])
    monkeypatch.setattr(maps, "compute_features", lambda *arguments, **options: few)
    message = refusal(embed, config(output, split="test[:9]"))
    assert message.startswith(f"--output={output}: nothing to draw of digits (test[:9]): too few readable")
    assert not output.exists()


def test_output_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    output = tmp_path / "file" / "a.png"
    assert refusal(embed, config(output)).startswith(f"--output={output}: cannot be written (")
    assert "write to a local file" in refusal(embed, config("gs://bucket/a.png"))
    (tmp_path / "b.png").mkdir()
    assert refusal(embed, config(tmp_path / "b.png", overwrite=True)).endswith("is a directory; use another name.")


def test_size_of_files_has_no_meaning_for_a_picture():
    with pytest.raises(UserError, match=r"^--shard_size=5: has no meaning with --output=a.png"):
        config("a.png", shard_size=5)
