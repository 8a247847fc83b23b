"""The data that a run remembers: when it goes on, when it is refused, and what an evaluation takes from it."""

import json
import shutil

import numpy as np
import pytest

from tests.support.runs import refusal, tiny_config, write_images
from tf_simclr.config import UserError
from tf_simclr.data import load_source
from tf_simclr.runs.data import RunData, describe_change, read_run_data, write_run_data
from tf_simclr.runs.directory import check_directory, claim_directory
from tf_simclr.training.experiment import Experiment, train_and_evaluate

SOME = RunData(("cat", "dog"), 2, 4, "1f")


@pytest.mark.parametrize(
    ("now", "change"),
    [
        (SOME, None),
        (SOME._replace(class_names=None), None),
        (SOME._replace(num_images=3, fingerprint="2f"), "4 images then, 3 now: 1 removed"),
        (SOME._replace(fingerprint="2f"), "4 images then and now, but not the same ones"),
        (
            SOME._replace(class_names=("a cat", "dog"), fingerprint="2f"),
            "2 classes (cat, dog) then, 2 classes (a cat, dog) now",
        ),
    ],
)
def test_change_of_the_data_in_words(now, change):
    assert describe_change(SOME, now) == change


def test_run_of_an_earlier_version_is_compared_by_its_classes_alone():
    earlier = RunData(("cat", "dog"))
    assert describe_change(earlier, SOME) is None
    assert describe_change(earlier, SOME._replace(class_names=("dog", "cat"))) == (
        "2 classes (cat, dog) then, 2 classes (dog, cat) now"
    )


def test_run_data_is_read_as_it_was_written(tmp_path):
    assert read_run_data(str(tmp_path)) is None
    for data in (SOME, SOME._replace(num_classes=None)):
        write_run_data(str(tmp_path), data)
        assert read_run_data(str(tmp_path)) == data
    (tmp_path / "data.json").unlink()
    assert read_run_data(str(tmp_path)) == RunData(("cat", "dog"))
    (tmp_path / "data.json").write_text('{"num_images": "4", "num_classes": 2, "fingerprint": "1f"}')
    with pytest.raises(UserError, match=r"data\.json: damaged or unreadable \(num_images is '4', not int\)"):
        read_run_data(str(tmp_path))


# ---- A run that has begun


@pytest.fixture
def photos(tmp_path):
    for folder in ("train/cat", "train/dog", "test/cat", "test/dog"):
        write_images(tmp_path / "photos" / folder, 2)
    return tmp_path / "photos"


def config_of(tmp_path, folder, **flags):
    settings = {"dataset": f"folder:{folder}", "eval_split": None, "train_batch_size": 2, "train_epochs": 5}
    return tiny_config(tmp_path / "run", **({"train_steps": None} | settings | flags))


@pytest.fixture
def begun(tmp_path, photos):
    """A run on the photos that was stopped after 2 of its 11 steps."""
    config = config_of(tmp_path, photos)
    source = load_source(config.data, "train")
    claim_directory(config, RunData(source.class_names, 2, source.num_examples, source.fingerprint()))
    (tmp_path / "run" / "ckpt-2.index").write_bytes(b"")
    return config


def test_run_whose_data_has_moved_goes_on(tmp_path, photos, begun, without_network):
    moved = shutil.move(photos, tmp_path / "scratch")
    experiment = Experiment(config_of(tmp_path, moved))
    experiment._begun.check(2, total_steps=11)
    assert experiment.plan.total_steps == 11


def test_run_on_data_of_another_kind_is_refused_at_once(tmp_path, begun):
    with pytest.raises(UserError, match=r"\(--dataset=folder:\S+ there, tfrecord:\S+ now\)"):
        check_directory(config_of(tmp_path, tmp_path, dataset=f"tfrecord:{tmp_path}"))


def test_run_that_does_not_know_its_data_is_held_to_its_place(tmp_path, begun):
    (tmp_path / "run" / "data.json").unlink()
    with pytest.raises(UserError, match=r"\(--dataset=folder:\S+photos there, folder:\S+other now\)"):
        check_directory(config_of(tmp_path, tmp_path / "other"))


def test_run_whose_images_have_become_more_is_refused(tmp_path, photos, begun, without_network):
    shutil.copy(photos / "train" / "cat" / "000.png", photos / "train" / "cat" / "new.png")
    assert Experiment(begun).plan.total_steps == 11
    before = (tmp_path / "run" / "data.json").read_bytes()
    message = refusal(begun)
    assert message.startswith(f"--model_dir={tmp_path}/run: holds a run that began with other images (")
    assert message.endswith(
        "(4 images then, 5 now: 1 added); restore them to go on with it, or use another --model_dir."
    )
    assert (tmp_path / "run" / "data.json").read_bytes() == before


def test_run_that_another_process_has_begun_meanwhile_is_held_to_its_images(tmp_path, photos, without_network):
    config = config_of(tmp_path, photos)
    late = Experiment(config)
    claim_directory(config, SOME._replace(num_images=3))
    (tmp_path / "run" / "ckpt-2.index").write_bytes(b"")
    with pytest.raises(UserError, match=r"other images \(3 images then, 4 now: 1 added\)"):
        late.train(())
    assert read_run_data(str(tmp_path / "run")) == SOME._replace(num_images=3)


def test_run_whose_class_was_renamed_is_refused_with_both_lists(tmp_path, photos, begun, without_network):
    (photos / "train" / "dog").rename(photos / "train" / "a dog")
    (photos / "test" / "dog").rename(photos / "test" / "a dog")
    message = refusal(begun)
    assert "other images (2 classes (cat, dog) then, 2 classes (a dog, cat) now)" in message
    assert json.loads((tmp_path / "run" / "class_names.json").read_text()) == ["cat", "dog"]


def test_run_whose_classes_are_in_another_order_keeps_their_numbers(tmp_path, photos, begun, without_network):
    data = read_run_data(str(tmp_path / "run"))
    claim_directory(begun, data._replace(class_names=("dog", "cat")))
    experiment = Experiment(begun)
    experiment._begun.check(2, total_steps=11)
    np.testing.assert_array_equal(experiment.train_source.read_labels(), [1, 1, 0, 0])
    assert experiment.eval_source.class_names == experiment.train_source.class_names == ("dog", "cat")


def test_finished_run_says_that_its_images_have_changed(tmp_path, photos, begun, without_network, log):
    shutil.copy(photos / "train" / "cat" / "000.png", photos / "train" / "cat" / "new.png")
    result = {"global_step": 11, "train/num_bad_images": 0}
    (tmp_path / "run" / "result.json").write_text(json.dumps(result | {"eval_split": None, "eval_steps": 0}))
    assert train_and_evaluate(begun) == result
    assert log.messages[-2].startswith(f"The training images of {tmp_path}/run have changed since (4 images then, 5")
    assert log.messages[-1].startswith("Already finished: ")


def test_evaluation_on_other_data_needs_no_training_images_and_keeps_the_numbers(tmp_path, begun, without_network):
    write_images(tmp_path / "other" / "test" / "dog", 3)
    other = Experiment(config_of(tmp_path, tmp_path / "other", mode="eval", eval_split="test"))
    assert other.plan.total_steps == 11
    assert other.eval_source.class_names == ("cat", "dog")
    np.testing.assert_array_equal(other.eval_source.read_labels(), [1, 1, 1])


def test_evaluation_on_data_of_other_classes_is_refused(tmp_path, begun, without_network):
    write_images(tmp_path / "other" / "test" / "fox", 3)
    message = refusal(config_of(tmp_path, tmp_path / "other", mode="eval", eval_split="test"))
    assert message.startswith(
        f"--eval_split: folder:{tmp_path}/other (test) has 1 class (fox), the network 2 classes (cat, dog)"
    )


def test_relative_path_of_the_data_is_written_as_one_that_holds_anywhere(tmp_path, photos, monkeypatch):
    monkeypatch.chdir(tmp_path)
    claim_directory(config_of(tmp_path, "photos"), SOME)
    written = json.loads((tmp_path / "run" / "flags.json").read_text())["dataset"]
    assert written == f"folder:{photos}"
