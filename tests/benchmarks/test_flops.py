"""The count of operations against the graphs of networks and steps, and against published figures."""

import dataclasses

import pytest
import tensorflow as tf

from benchmarks.flops import count_table, step_flops
from benchmarks.synthetic import make_batch, make_task, training_of
from tests.benchmarks.graphs import count_operations
from tests.models.test_resnet import PARAMETERS
from tests.support.networks import tiny_config
from tf_simclr.config import BenchmarkConfig, ContrastConfig, ModelConfig, TrainConfig
from tf_simclr.models import build_simclr_model
from tf_simclr.models.counting import CountingBuilder, count_network

BATCH = 4
NUM_CLASSES = 7
FAST = {"R18", "R18 large stem, odd size"}
NETWORKS = {
    "R18 small stem": {},
    "R18 large stem, odd size": {"image_size": 37},
    "R50": {"resnet_depth": 50, "image_size": 40},
    "R50 SK, odd size": {"resnet_depth": 50, "sk_ratio": 0.0625, "image_size": 45},
    "R18 SE": {"se_ratio": 0.25},
    "R18 without a head": {"proj_head_mode": "none"},
    "R18 with a linear head": {"proj_head_mode": "linear"},
}


def exhaustive_unless_in(fast, names):
    return [pytest.param(name, marks=() if name in fast else pytest.mark.exhaustive) for name in names]


def model_config(**settings) -> ModelConfig:
    return tiny_config(**({"precision": "float32"} | settings))


@pytest.mark.slow
@pytest.mark.parametrize("name", exhaustive_unless_in(FAST, NETWORKS))
def test_forward_pass_equals_the_graph(name):
    config = model_config(**NETWORKS[name])
    model = build_simclr_model(config)
    images = tf.TensorSpec([BATCH, config.image_size, config.image_size, 3])

    @tf.function(autograph=False)
    def forward(images):
        return model.forward(images, training=False).endpoints

    assert count_operations(forward.get_concrete_function(images)) == BATCH * count_network(config).flops


STEPS = {
    "R18": {},
    "probe on head layer 1": {"ft_proj_selector": 1},
    "R18 without a head": {"proj_head_mode": "none"},
    "R18 with a linear head, decoupled loss": {
        "proj_head_mode": "linear",
        "contrastive_loss": "decoupled_nt_xent",
    },
    "no probe": {"lineareval_while_pretraining": False},
    "memory": {"memory_size": 24},
    "R18 SE": {"se_ratio": 0.25},
    "R50 SK, odd size": {"resnet_depth": 50, "sk_ratio": 0.0625, "image_size": 45},
    "finetuning": {"train_mode": "finetune", "ft_proj_selector": 1},
    "supervised": {"train_mode": "supervised"},
    "finetuning of the last blocks": {"train_mode": "finetune", "fine_tune_after_block": 2},
    "finetuning of the last blocks, SK": {
        "train_mode": "finetune",
        "fine_tune_after_block": 2,
        "resnet_depth": 50,
        "sk_ratio": 0.0625,
    },
    "linear evaluation": {"train_mode": "finetune", "fine_tune_after_block": 4, "ft_proj_selector": 1},
    "distillation": {"train_mode": "distill", "ft_proj_selector": 1},
}


def training(**settings):
    """A training whose settings are sorted into their groups."""

    def pick(owner, **defaults):
        names = {field.name for field in dataclasses.fields(owner)}
        return owner(**(defaults | {name: value for name, value in settings.items() if name in names}))

    model = model_config(**{f.name: settings[f.name] for f in dataclasses.fields(ModelConfig) if f.name in settings})
    return training_of(
        BenchmarkConfig(
            model=model,
            train=pick(TrainConfig),
            contrast=pick(ContrastConfig),
            benchmark="step",
            benchmark_batch_size=BATCH,
        )
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", exhaustive_unless_in(FAST, STEPS))
def test_step_equals_the_graph(name):
    config = training(**STEPS[name])
    task = make_task(config, NUM_CLASSES)
    batch = make_batch(task, config, NUM_CLASSES)
    step = tf.function(task.train_step, autograph=False).get_concrete_function(batch)
    assert count_operations(step) == step_flops(config, NUM_CLASSES)


@pytest.mark.parametrize(("depth", "billions"), [(50, 4.09), (101, 7.80), (152, 11.51)])
def test_resnets_take_the_published_multiplications(depth, billions):
    """Of a forward pass at 224 px, the stride on the 3x3 convolution, with a classifier of 1000 classes."""
    network = count_network(ModelConfig(resnet_depth=depth))
    classifier = 2 * network.head_widths[0] * 1000
    assert (network.encoder_flops + classifier) / 2e9 == pytest.approx(billions, abs=0.01)


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_equal_the_papers(name):
    depth, width, selective = name
    config = ModelConfig(resnet_depth=depth, width_multiplier=width, sk_ratio=0.0625 if selective else 0)
    assert count_network(config).parameters == PARAMETERS[name]


def test_twice_the_side_takes_four_times_the_operations():
    small, large = (count_network(ModelConfig(image_size=size)).encoder_flops for size in (224, 448))
    assert large == 4 * small


def test_chunks_do_no_useful_work_twice():
    plain, chunked = (
        training_of(
            BenchmarkConfig(
                model=model_config(global_bn=False),
                contrast=ContrastConfig(contrast_chunks=c),
                benchmark="step",
            )
        )
        for c in (1, 4)
    )
    assert step_flops(plain, 10) == step_flops(chunked, 10)


def test_layer_that_is_not_known_is_refused():
    builder = CountingBuilder(ModelConfig(), (8, 8, 3), lambda features: None)
    with pytest.raises(TypeError, match=r"^tf_simclr\.models\.counting: what UpSampling2D costs is not known"):
        builder.layer(tf.keras.layers.UpSampling2D, builder.inputs)


def test_table_has_the_networks_of_the_paper_or_the_one_that_is_stated():
    lines = count_table(BenchmarkConfig(benchmark="flops"))
    assert len(lines) == 3 + 13
    assert lines[3].startswith("| R50 1x | 23.56 | 8.17 | ")
    assert lines[-1].startswith("| R152 3x SK | 795.24 | ")
    (row,) = count_table(
        BenchmarkConfig(model=ModelConfig(resnet_depth=34), benchmark="flops", stated=("resnet_depth",))
    )[3:]
    assert row.startswith("| R34 1x | ")
    assert {line.count("|") for line in lines[1:]} == {row.count("|")}
