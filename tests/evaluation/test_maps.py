"""A map of features, and bad input."""

import pytest
import tensorflow as tf

from tests.evaluation.conftest import refusal
from tests.support.runs import write_images
from tf_simclr.config import DataConfig, EmbedConfig, UserError
from tf_simclr.evaluation import maps
from tf_simclr.evaluation.embed import embed


def config(output, dataset="digits", **settings):
    data = DataConfig(dataset=dataset, max_bad_image_fraction=0.5)
    given = {"checkpoint": "run", "eval_batch_size": 50, "split": "test[:40]"} | settings
    return EmbedConfig(data=data, output=str(output), **given)


@pytest.mark.slow
def test_picture_is_the_same_each_time_and_replaced_only_where_asked(seen, tmp_path, monkeypatch, log):
    """Of more images than a map shows, with names that are hard to draw."""
    for seed, name in enumerate(("_$cat$", "dog")):
        write_images(tmp_path / "photos" / name, 6, seed=seed)
    for number in range(2):
        (tmp_path / "photos" / "dog" / f"00{number}.png").write_bytes(b"")
    monkeypatch.setattr(maps, "MAX_POINTS", 11)
    path, settings = tmp_path / "out" / "a.png", {"dataset": f"folder:{tmp_path / 'photos'}", "split": "train"}
    embed(config(path, **settings))
    picture = path.read_bytes()
    assert tf.io.decode_png(picture).shape[0] > 500
    assert "Map of 9 images of folder:" in log.text or "Map of 10 images of folder:" in log.text
    assert refusal(embed, config(path, **settings)) == (
        f"--output={path}: exists already; use another name, or replace it with --overwrite=True."
    )
    path.write_text("")
    embed(config(path, overwrite=True, **settings))
    assert path.read_bytes() == picture
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["a.png"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"endpoint": "map"}, "--endpoint=map: is no vector but [8, 8, 3] for one image"),
        ({"split": "test[:9]"}, "--output={output}: nothing to draw of digits (test[:9]): too few readable"),
    ],
)
def test_images_that_cannot_be_drawn_are_refused(seen, tmp_path, settings, message):
    output = tmp_path / "a.png"
    assert refusal(embed, config(output, **settings)).startswith(message.format(output=output))
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
