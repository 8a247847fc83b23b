"""The count of operations equals the graphs of training steps, and published figures."""

import dataclasses

import pytest
import tensorflow as tf

from benchmarks.flops import count_table, step_flops
from benchmarks.synthetic import make_batch, make_task, training_of
from tests.benchmarks.graphs import count_operations
from tests.models.test_resnet import PARAMETERS
from tests.support.marks import usual
from tests.support.networks import tiny_config
from tf_simclr.config import BenchmarkConfig, ContrastConfig, ModelConfig, TrainConfig
from tf_simclr.models.counting import CountingBuilder, count_network

R50_SK = {"resnet_depth": 50, "sk_ratio": 0.0625}
STEPS = {
    "pretraining": {},
    "finetuning, large stem, odd size": {"train_mode": "finetune", "ft_proj_selector": 1, "image_size": 37},
    "probe on head layer 1": {"ft_proj_selector": 1},
    "no head": {"proj_head_mode": "none"},
    "linear head, decoupled loss": {"proj_head_mode": "linear", "contrastive_loss": "decoupled_nt_xent"},
    "no probe": {"lineareval_while_pretraining": False},
    "memory": {"memory_size": 24},
    "SE": {"se_ratio": 0.25},
    "R50 SK, odd size": {**R50_SK, "image_size": 45},
    "supervised": {"train_mode": "supervised"},
    "finetuning of the last blocks": {"train_mode": "finetune", "fine_tune_after_block": 2},
    "finetuning of the last blocks, SK": {"train_mode": "finetune", "fine_tune_after_block": 2, **R50_SK},
    "linear evaluation": {"train_mode": "finetune", "fine_tune_after_block": 4, "ft_proj_selector": 1},
    "distillation": {"train_mode": "distill", "ft_proj_selector": 1},
}


def training(**settings):
    """A training whose settings are sorted into their groups."""

    def pick(owner):
        return {field.name: settings[field.name] for field in dataclasses.fields(owner) if field.name in settings}

    return training_of(
        BenchmarkConfig(
            model=tiny_config(precision="float32", **pick(ModelConfig)),
            train=TrainConfig(**pick(TrainConfig)),
            contrast=ContrastConfig(**pick(ContrastConfig)),
            benchmark="step",
            benchmark_batch_size=4,
        )
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", usual(*list(STEPS)[:2], also=list(STEPS)[2:]))
def test_step_equals_the_graph(name):
    config = training(**STEPS[name])
    task = make_task(config)
    step = tf.function(task.train_step, autograph=False).get_concrete_function(make_batch(task, config))
    assert count_operations(step) == step_flops(config)


@pytest.mark.parametrize(("depth", "billions"), [(50, 4.09), (101, 7.80), (152, 11.51)])
def test_resnets_take_the_published_multiplications(depth, billions):
    """A forward pass at 224 px, the stride on the 3x3 convolution, with a classifier of 1000 classes."""
    network = count_network(ModelConfig(resnet_depth=depth))
    classifier = 2 * network.head_widths[0] * 1000
    assert (network.encoder_flops + classifier) / 2e9 == pytest.approx(billions, abs=0.01)


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_equal_the_papers(name):
    depth, width, selective = name
    config = ModelConfig(resnet_depth=depth, width_multiplier=width, sk_ratio=0.0625 if selective else 0)
    assert count_network(config).parameters == PARAMETERS[name]


def test_unknown_layer_is_refused():
    builder = CountingBuilder(ModelConfig(), (8, 8, 3), lambda features: None)
    with pytest.raises(TypeError, match=r"UpSampling2D"):
        builder.layer(tf.keras.layers.UpSampling2D, builder.inputs)


def test_table_has_the_networks_of_the_paper_or_the_stated_one():
    lines = count_table(BenchmarkConfig(benchmark="flops"))
    assert len(lines) == 3 + 13
    assert lines[3].startswith("| ResNet-50 1x 224 px | 23.56 | 8.17 | ")
    assert lines[-1].startswith("| ResNet-152 3x SK 224 px | 795.24 | ")
    stated = BenchmarkConfig(model=ModelConfig(resnet_depth=34), benchmark="flops", stated=("resnet_depth",))
    (row,) = count_table(stated)[3:]
    assert row.startswith("| ResNet-34 1x 224 px | ")
    assert {line.count("|") for line in lines[1:]} == {row.count("|")}
