"""A map of features, and bad input."""

import functools

import pytest
import tensorflow as tf

from tests.support.runs import finished_run, write_images
from tf_simclr.config import DataConfig, EmbedConfig, UserError
from tf_simclr.evaluation import maps
from tf_simclr.evaluation.embed import embed
from tf_simclr.evaluation.features import load_inference_network


@pytest.fixture(autouse=True)
def _one_network(monkeypatch):
    """Loads and compiles the network once for all tests."""
    monkeypatch.setattr(maps, "load_inference_network", load_once)


@functools.cache
def load_once(path):
    return load_inference_network(path)


@pytest.fixture
def photos(tmp_path):
    """A folder of twelve images in two classes, one of them unreadable, with names that are hard to draw."""
    for seed, name in enumerate(("_$cat$", "dog")):
        write_images(tmp_path / "photos" / name, 6, seed=seed)
    (tmp_path / "photos" / "dog" / "002.png").write_bytes(b"")
    return tmp_path / "photos"


def config(output, dataset="digits", **settings):
    data = DataConfig(dataset=dataset, max_bad_image_fraction=0.5)
    given = {
        "checkpoint": str(finished_run().directory),
        "eval_batch_size": 50,
        "split": "test[:40]",
    } | settings
    return EmbedConfig(data=data, output=str(output), **given)


def refusal(*arguments, **settings):
    with pytest.raises(UserError) as error:
        embed(config(*arguments, **settings))
    assert "\n" not in str(error.value)
    return str(error.value)


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.slow
def test_picture_is_a_png_and_the_same_each_time(photos, tmp_path, log):
    paths = [tmp_path / "out" / name for name in ("a.png", "b.png")]
    for path in paths:
        embed(config(path, f"folder:{photos}", split="train"))
    assert names_in(tmp_path / "out") == ["a.png", "b.png"]
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert tf.io.decode_png(paths[0].read_bytes()).shape[0] > 500
    assert "Map of 11 images of folder:" in log.text
    assert "Left out 1 unreadable image." in log.text


@pytest.mark.slow
def test_of_many_images_the_same_ones_are_shown(tmp_path, monkeypatch):
    monkeypatch.setattr(maps, "MAX_POINTS", 12)
    for name in ("a", "b"):
        embed(config(tmp_path / f"{name}.png"))
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


@pytest.mark.slow
def test_output_that_exists_is_replaced_where_asked(tmp_path):
    output = tmp_path / "a.png"
    output.write_text("")
    assert refusal(output) == (
        f"--output={output}: exists already; use another name, or replace it with --overwrite=True."
    )
    embed(config(output, overwrite=True, split="test[:20]"))
    assert tf.io.decode_png(output.read_bytes()).shape[0] > 500
    (tmp_path / "b.png").mkdir()
    message = refusal(tmp_path / "b.png", overwrite=True)
    assert message.endswith("is a directory; use another name.")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"endpoint": "block_group1"}, "--endpoint=block_group1: is no vector but [8, 8, 8] for one image"),
        ({"endpoint": "nothing"}, "--endpoint=nothing: "),
        ({"split": "test[:9]"}, "--output={output}: nothing to draw of digits (test[:9]): too few readable"),
    ],
)
def test_what_cannot_be_drawn_is_refused(tmp_path, settings, message):
    output = tmp_path / "a.png"
    assert refusal(output, **settings).startswith(message.format(output=output))
    assert not output.exists()


def test_output_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    assert refusal(tmp_path / "file" / "a.png").startswith(f"--output={tmp_path / 'file' / 'a.png'}: cannot be")
    assert "write to a local file" in refusal("gs://bucket/a.png")


def test_size_of_files_has_no_meaning_for_a_picture():
    with pytest.raises(UserError, match=r"^--shard_size=5: has no meaning with --output=a.png"):
        config("a.png", shard_size=5)
