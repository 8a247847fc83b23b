"""The curve of accuracy against the number of labels, with runs that really train."""

import json

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from sklearn.semi_supervised import LabelSpreading

import tf_simclr
from tests.support.runs import (
    WHOLE,
    differing_tensors,
    eagerly,
    tiny_config,
)
from tests.workflows.test_label_efficiency import FROZEN, check_spread, curve_config, refusal
from tf_simclr.augment import EvalView
from tf_simclr.config import DataConfig, UserError
from tf_simclr.data import choose_labelled, load_source
from tf_simclr.runs.networks import load_network
from tf_simclr.workflows import frozen_methods
from tf_simclr.workflows.label_efficiency import measure_label_efficiency

# ---- Real runs


def real_config(directory, **flags):
    methods = ",".join(["finetune", *FROZEN])
    settings = {"labels_per_class": 3, "eval_steps": 1, "num_pretrained": 2, "efficiency_methods": methods}
    return curve_config(directory, **(settings | {"efficiency_baseline": "raw_pixels"} | flags))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    directory = tmp_path_factory.mktemp("efficiency") / "curve"
    with eagerly():
        return directory, measure_label_efficiency(real_config(directory))


@pytest.mark.slow
def test_curve_is_that_of_runs_by_hand(finished, tmp_path):
    directory, outcome = finished
    settings = {"train_steps": 1, "labels_per_class": 3, "label_seed": 1, "seed": 1, "eval_steps": 1}
    settings |= {"mode": "finetune", "checkpoint": directory / "pretrain_1"}
    with eagerly():
        result = tf_simclr.train_and_evaluate(tiny_config(tmp_path / "run", **(WHOLE | settings)))
    ours = directory / "labels_3" / "seed_1" / "finetune"
    assert differing_tensors(ours / "ckpt-1", tmp_path / "run" / "ckpt-1") == []
    top_1 = outcome["points"][0]["finetune"]["label_top_1_accuracy"]["by_seed"]
    assert top_1[1] == result["eval/label_top_1_accuracy"]
    assert not (ours / "saved_model").exists()


@pytest.mark.slow
def test_frozen_methods_are_those_of_scikit_learn(finished):
    directory, outcome = finished
    held_out = load_source(DataConfig(dataset="digits"), "test").part(0, 150)
    train = load_source(DataConfig(dataset="digits"), "train")
    pixels = [source.images.reshape(source.num_examples, -1) / 255 for source in (train, held_out)]
    (point,) = outcome["points"]
    scores = {name: point[name]["label_top_1_accuracy"]["by_seed"] for name in FROZEN}
    assert point["raw_pixels"]["label_top_1_accuracy"]["mean"] > 0.5
    difference = np.subtract(scores["linear_eval"], scores["raw_pixels"])
    check_spread(point["linear_eval_minus_raw_pixels"]["label_top_1_accuracy"], difference)
    for draw, start in enumerate(("pretrain", "pretrain_1")):
        network = load_network(str(directory / start), "checkpoint")
        features = [
            network.forward(EvalView(image_size=8)(source.images), training=False).endpoints["final_avg_pool"].numpy()
            for source in (train, held_out)
        ]
        chosen = choose_labelled(train.labels, 10, per_class=3, seed=draw)
        labels = np.full(train.num_examples, -1)
        labels[chosen] = train.labels[chosen]
        scale = StandardScaler().fit(features[0]).transform
        linear = LogisticRegression(max_iter=5000).fit(scale(features[0][chosen]), labels[chosen])
        raw = LogisticRegression(max_iter=5000).fit(pixels[0][chosen], labels[chosen])
        spreading = LabelSpreading(kernel="knn", n_neighbors=7, max_iter=100).fit(pixels[0], labels)
        expected = [linear.score(scale(features[1]), held_out.labels), raw.score(pixels[1], held_out.labels)]
        with np.errstate(invalid="ignore"):  # No label reaches some images.
            expected.append(spreading.score(pixels[1], held_out.labels))
        np.testing.assert_allclose([scores[name][draw] for name in FROZEN], expected, atol=1.5 / 150)


@pytest.mark.slow
def test_finished_curve_computes_nothing_again(finished, log, monkeypatch):
    directory, outcome = finished
    stored = json.loads((directory / "result_frozen.json").read_text())
    assert set(stored) == {f"labels_3/seed_{draw}/{name}" for draw in (0, 1) for name in FROZEN}
    monkeypatch.setattr(frozen_methods, "compute_features", None)
    before = {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}
    events = []
    assert measure_label_efficiency(real_config(directory), lambda run: [events.append]) == outcome
    assert events == []
    assert sum(message.startswith("Already finished: ") for message in log.messages) == 4
    assert {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()} == before


@pytest.mark.slow
def test_curve_whose_start_was_deleted_or_does_not_fit_is_refused(finished, tmp_path):
    directory, start = finished[0], tmp_path / "away"
    (directory / "pretrain").rename(start)
    try:
        with pytest.raises(UserError, match="finetune has begun, but pretrain, which it starts from, is gone"):
            measure_label_efficiency(real_config(directory))
        message = refusal(checkpoint=start, width_multiplier=0.25, model_dir=tmp_path / "curve")
        assert message.startswith(f"--checkpoint={start}/ckpt-1: another network; ")
    finally:
        start.rename(directory / "pretrain")
