"""What features look like: a picture, TensorBoard's projector, and bad input."""

import functools
import json
import warnings

import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import text_format
from tensorboard.plugins import base_plugin, projector
from werkzeug.test import Client

from tests.support.runs import finished_run, write_images
from tf_simclr.augment import EvalView
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


def served(directory):
    """What TensorBoard's own plugin answers a browser, by route."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "'imghdr' is deprecated")
        from tensorboard.plugins.projector import projector_plugin

    class NoRuns:
        def list_runs(self, context, experiment_id):
            return []

    context = base_plugin.TBContext(logdir=str(directory), data_provider=NoRuns())
    apps = projector_plugin.ProjectorPlugin(context).get_plugin_apps()

    def get(route, **query):
        answer = Client(apps[route]).get(route, query_string=query)
        assert answer.status_code == 200, answer.data
        return answer.data

    return get


@pytest.mark.slow
def test_tensorboard_shows_points_names_and_images(photos, tmp_path):
    output = tmp_path / "out" / "all.projector"
    embed(config(output, f"folder:{photos}", split="train"))
    assert names_in(tmp_path / "out") == ["all.projector"]
    get = served(output)
    assert json.loads(get("/runs")) == ["."]
    (described,) = json.loads(get("/info", run="."))["embeddings"]
    assert described["tensorShape"] == [11, 64]
    query = {"run": ".", "name": described["tensorName"]}
    features = np.frombuffer(get("/tensor", **query), np.float32).reshape(11, 64)
    embed(config(tmp_path / "all.npz", f"folder:{photos}", split="train"))
    rows = np.load(tmp_path / "all.npz")
    np.testing.assert_allclose(features, rows["features"], rtol=1e-5, atol=1e-6)
    header, *lines = get("/metadata", **query).decode().splitlines()
    assert header == "class\tname"
    assert lines == [f"{('_$cat$', 'dog')[k]}\t{n}" for k, n in zip(rows["labels"], rows["names"], strict=True)]
    sprite = tf.io.decode_png(get("/sprite_image", **query)).numpy()
    assert described["sprite"]["singleImageDim"] == [8, 8]
    # Eleven images in four columns; the ninth, in the third row, is dog/003.png.
    image = tf.io.decode_png((photos / rows["names"][8]).read_bytes())
    expected = np.rint(255 * EvalView(image_size=8)(image[tf.newaxis])[0])
    np.testing.assert_allclose(sprite[16:24, :8].astype(int), expected, atol=1)
    assert sprite.shape == (24, 32, 3)
    assert not sprite[16:, 24:].any()


@pytest.mark.slow
def test_description_is_read_as_tensorboard_reads_it(tmp_path):
    embed(config(tmp_path / "a.projector", endpoint="logits_sup"))
    found = projector.ProjectorConfig()
    text_format.Parse((tmp_path / "a.projector" / "projector_config.pbtxt").read_text(), found)
    (embedding,) = found.embeddings
    assert (embedding.tensor_name, embedding.tensor_path) == ("logits_sup", "tensor.tsv")
    lines = (tmp_path / "a.projector" / "metadata.tsv").read_text().splitlines()
    assert len(lines) == 41
    assert lines[1].endswith("\texample 0")


@pytest.mark.parametrize("count", [1, 4, 5, 12])
def test_images_stand_in_rows(count):
    images = np.arange(count * 12, dtype=np.uint8).reshape(count, 2, 2, 3)
    tiled = maps.tile_images(images)
    columns = int(np.ceil(np.sqrt(count)))
    assert tiled.shape[1] == 2 * columns
    for number, image in enumerate(images):
        row, column = 2 * (number // columns), 2 * (number % columns)
        np.testing.assert_array_equal(tiled[row : row + 2, column : column + 2], image)


@pytest.mark.slow
def test_of_many_images_the_same_ones_are_shown(tmp_path, monkeypatch):
    monkeypatch.setattr(maps, "MAX_POINTS", 12)
    for name in ("a", "b"):
        embed(config(tmp_path / f"{name}.projector"))
    first, second = ((tmp_path / f"{name}.projector" / "metadata.tsv").read_text() for name in ("a", "b"))
    assert first == second
    assert len(first.splitlines()) == 13


@pytest.mark.slow
def test_output_that_exists_is_replaced_where_asked_and_ours(tmp_path):
    for output in (tmp_path / "a.png", tmp_path / "a.projector"):
        embed(config(output))
        assert refusal(output) == (
            f"--output={output}: exists already; use another name, or replace it with --overwrite=True."
        )
        embed(config(output, overwrite=True, split="test[:20]"))
    assert len((tmp_path / "a.projector" / "metadata.tsv").read_text().splitlines()) == 21
    (tmp_path / "a.projector" / "mine.txt").write_text("mine")
    message = refusal(tmp_path / "a.projector", overwrite=True)
    assert message.endswith("is none that this program has written; use another name.")
    assert (tmp_path / "a.projector" / "mine.txt").exists()


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
    for name in ("a.png", "a.projector"):
        assert refusal(tmp_path / "file" / name).startswith(f"--output={tmp_path / 'file' / name}: cannot be")
    assert "write to a local file" in refusal("gs://bucket/a.png")


def test_size_of_files_has_no_meaning_for_a_picture():
    with pytest.raises(UserError, match=r"^--shard_size=5: has no meaning with --output=a.png"):
        config("a.png", shard_size=5)
