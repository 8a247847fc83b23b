"""Whole runs on all kinds of data: splits, sizes, no labels, unreadable images, a data service."""

import json
import socket

import pytest
import tensorflow as tf

from tests.support.runs import eagerly, read_tensors, refusal, tiny_config, write_images
from tf_simclr.training.experiment import Experiment, train_and_evaluate

# ---- Which split is evaluated


@pytest.mark.parametrize(
    ("folders", "expected"),
    [
        (["train", "validation", "test"], "validation"),
        (["train", "val", "test"], "validation"),
        (["train", "test"], "test"),
        (["train"], None),
    ],
)
def test_eval_split_unset_takes_validation_else_test(tmp_path, without_network, folders, expected):
    for folder in folders:
        write_images(tmp_path / "data" / folder / "cat", 2)
    config = tiny_config(tmp_path / "run", dataset=f"folder:{tmp_path}/data", eval_split=None, train_batch_size=2)
    source = Experiment(config).eval_source
    assert (source and source.name) == (expected and f"folder:{tmp_path}/data ({expected})")


def test_eval_split_is_not_opened_for_training_alone(tmp_path, without_network):
    config = tiny_config(tmp_path / "run", mode="train", eval_split="no such split")
    assert Experiment(config).eval_source is None


def test_eval_split_missing_is_refused(tmp_path):
    message = refusal(tiny_config(tmp_path / "run", eval_split="validation"))
    assert message.startswith("--eval_split=validation: digits has the split(s) train, test; use one")
    assert not (tmp_path / "run").exists()


def test_eval_split_with_other_classes_is_refused(tmp_path):
    for folder in ("train/cat", "train/dog", "test/cat", "test/fox"):
        write_images(tmp_path / "data" / folder, 2)
    config = tiny_config(tmp_path / "run", dataset=f"folder:{tmp_path}/data", eval_split=None, train_batch_size=2)
    message = refusal(config)
    assert message.startswith("--eval_split: ")
    assert message.endswith(
        "(test) has 2 classes (cat, fox), the network 2 classes (cat, dog); use splits with the same classes, or with "
        "some of them."
    )
    assert not (tmp_path / "run").exists()


def test_eval_split_that_lacks_a_class_keeps_the_numbers_of_the_training_images(tmp_path, without_network):
    for folder in ("train/cat", "train/dog", "test/dog"):
        write_images(tmp_path / "data" / folder, 2)
    config = tiny_config(tmp_path / "run", dataset=f"folder:{tmp_path}/data", eval_split=None, train_batch_size=2)
    source = Experiment(config).eval_source
    assert (source.class_names, source.read_labels().tolist()) == (("cat", "dog"), [1, 1])


# ---- Sizes that do not fit


def test_batch_larger_than_the_data_is_refused(tmp_path, without_network):
    message = refusal(tiny_config(tmp_path / "run", train_batch_size=1348))
    assert message.startswith("--train_batch_size=1348: digits (train) has only 1347 examples")
    assert not (tmp_path / "run").exists()


@pytest.mark.distributed
@pytest.mark.parametrize("flag", ["train_batch_size", "eval_batch_size"])
def test_batch_that_replicas_cannot_share_is_refused_before_training(tmp_path, without_network, flag):
    message = refusal(tiny_config(tmp_path / "run", strategy="mirrored", **{flag: 33}))
    assert message.startswith(f"--{flag}=33: cannot be shared out evenly over 4 replicas; use 32 or 36.")
    assert not (tmp_path / "run").exists()


@pytest.mark.distributed
@pytest.mark.parametrize(
    ("strategy", "batch_size", "fix"),
    [
        ("one_device", 33, "each of 1 replica(s); use 32 or 36 or fewer chunks."),
        ("mirrored", 33, "each of 4 replica(s); use 32 or 48 or fewer chunks."),
        ("one_device", 1347, "each of 1 replica(s); use 1344 or fewer chunks."),
    ],
)
def test_batch_that_chunks_cannot_share_is_refused_before_training(
    tmp_path, without_network, strategy, batch_size, fix
):
    settings = {"strategy": strategy, "train_batch_size": batch_size}
    message = refusal(tiny_config(tmp_path / "run", contrast_chunks=4, global_bn=False, **settings))
    assert message.startswith(f"--train_batch_size={batch_size}: cannot be cut into --contrast_chunks=4 equal")
    assert message.endswith(fix)
    assert not (tmp_path / "run").exists()


# ---- Data without labels, and images that cannot be read


@pytest.mark.slow
@pytest.mark.exhaustive
def test_unlabelled_folder_is_pretrained_without_probe_and_evaluation(tmp_path, log):
    folder = write_images(tmp_path / "flat", 40)
    (folder / "007.png").write_bytes(b"no picture")
    config = tiny_config(
        tmp_path / "run",
        dataset=f"folder:{folder}",
        eval_split=None,
        train_batch_size=20,
        train_steps=4,
        checkpoint_steps=0,
        max_bad_image_fraction=0.1,
    )
    events = []
    result = train_and_evaluate(config, [events.append])
    # Two epochs of 40 images: the one that cannot be read was drawn twice.
    expected = {
        "global_step": 4,
        "num_weights": result["num_weights"],
        "train/num_bad_images": 2,
        "train/num_labels": 0,
    }
    assert result == expected
    with open(tmp_path / "run" / "result.json") as file:
        assert json.load(file)["train/num_bad_images"] == 2
    assert any("has no labels: pretraining without the online linear probe" in m for m in log.messages)
    assert "Training without an evaluation: there is no linear probe." in log.messages
    assert any(m.startswith("Skipped 1 unreadable image: ") and "007.png" in m for m in log.messages)
    assert "supervised_acc" not in events[-1].metrics
    assert sum(event.metrics["bad_images"] * event.num_steps for event in events) == pytest.approx(2)
    assert not [name for name in read_tensors(tmp_path / "run" / "ckpt-4") if "supervised_head" in name]


@pytest.mark.slow
def test_unreadable_images_in_evaluation_are_counted_and_over_the_share_an_error(tmp_path, log):
    for part in ("train/cat", "train/dog", "test/cat", "test/dog"):
        write_images(tmp_path / "data" / part, 20)
    (tmp_path / "data" / "test" / "cat" / "003.png").write_bytes(b"no picture")
    flags = {"dataset": f"folder:{tmp_path}/data", "eval_split": None, "train_steps": 1}
    with eagerly():
        result = train_and_evaluate(tiny_config(tmp_path / "run", max_bad_image_fraction=0.1, **flags))
    assert (result["eval/num_examples"], result["eval/num_bad_images"]) == (39, 1)
    assert any(message.startswith("Skipped 1 unreadable image of ") for message in log.messages)
    message = refusal(tiny_config(tmp_path / "run", mode="eval", max_bad_image_fraction=0.01, **flags))
    assert message.startswith("--max_bad_image_fraction=0.01: 1 of 40 images of ")


# ---- A data service


@pytest.mark.slow
def test_run_takes_its_batches_from_a_data_service(tmp_path, log):
    servers = tf.data.experimental.service
    dispatcher = servers.DispatchServer(servers.DispatcherConfig(port=0))
    address = dispatcher.target.partition("://")[2]
    data_worker = servers.WorkerServer(servers.WorkerConfig(dispatcher_address=address, port=0))
    config = tiny_config(tmp_path, mode="train", data_service=dispatcher.target, train_steps=1)
    with eagerly():
        assert train_and_evaluate(config) == {"global_step": 1}
    assert sum(dispatcher.target in message for message in log.messages) == 1
    # The run's and, where it is not over yet, that of asking for a data worker.
    assert data_worker._num_tasks() in (1, 2)


def test_data_service_that_does_not_answer_is_refused(tmp_path, without_network):
    with socket.create_server(("localhost", 0)) as server:
        address = f"grpc://localhost:{server.getsockname()[1]}"
    message = refusal(tiny_config(tmp_path / "run", data_service=address))
    assert message.startswith(f"--data_service={address}: no dispatcher answers (Connection refused); start")
    assert not (tmp_path / "run").exists()
