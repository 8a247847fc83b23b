"""Differences between two networks, and the flags that explain them."""

import functools

import pytest
import tensorflow as tf

from tests.support.marks import usual
from tests.support.networks import variables
from tf_simclr.config import ModelConfig
from tf_simclr.models import build_simclr_model
from tf_simclr.runs.network_differences import describe_differences

BASE = {"resnet_depth": 10, "width_multiplier": 0.125, "image_size": 8, "proj_out_dim": 16}


@functools.cache
def shapes_of(num_classes=10, **changes):
    with tf.Graph().as_default():  # No weights are needed.
        model = build_simclr_model(ModelConfig(**(BASE | changes)), num_classes)
        return {name: tuple(variable.shape) for name, variable in variables(model).items()}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("theirs", "ours", "explained"),
    usual(
        (
            {"width_multiplier": 0.25, "se_ratio": 0.5},
            {},
            "--width_multiplier=0.25 (here 0.125), --se_ratio=0.5 (here 0)",
        ),
        ({"image_size": 40, "sk_ratio": 0.0625}, {"image_size": 40}, "--sk_ratio=above 0 (here 0)"),
        ({}, {"image_size": 40}, "--image_size=32 or less (here above 32)"),
        ({"num_proj_layers": 2, "proj_out_dim": 32}, {}, "--num_proj_layers=2 (here 3), --proj_out_dim=32 (here 16)"),
        ({"proj_head_mode": "none"}, {}, "--proj_head_mode=none (here linear or nonlinear)"),
        ({}, {"proj_head_mode": "none"}, "--num_proj_layers=3, --proj_out_dim=16"),
        ({"ft_proj_selector": -1}, {}, "another --ft_proj_selector"),
        ({"num_classes": 7}, {}, "7 classes (here 10)"),
        ({"num_classes": None}, {}, "it was written with no supervised head: finetune it, or start it with"),
        ({}, {"num_classes": None}, "--lineareval_while_pretraining=True (here False)"),
        also=[
            ({"resnet_depth": 34}, {}, "--resnet_depth=34 (here 10)"),
            ({"resnet_depth": 50}, {}, "--resnet_depth=50 (here 10)"),
            ({"resnet_depth": 50, "sk_ratio": 0.5}, {"resnet_depth": 50}, "--sk_ratio=0.5 (here 0)"),
            ({"se_ratio": 0.25}, {"se_ratio": 0.5}, "--se_ratio=0.25 (here 0.5)"),
            ({"proj_head_mode": "linear"}, {}, "--num_proj_layers=1 (here 3)"),
        ],
    ),
    ids=str,
)
def test_difference_is_explained_by_its_flag(theirs, ours, explained):
    saved, expected = shapes_of(**theirs), shapes_of(**ours)
    message = describe_differences(saved, expected)
    assert explained in message
    assert message.startswith("another network; variables: ")
    # Nothing but what differs is blamed, apart from the parts of a head that is not here at all.
    assert message.count(" (here ") <= len(theirs | ours)
    assert describe_differences(saved, saved) is None


def test_difference_in_depth_is_read_from_the_names_of_the_blocks():
    def blocks(*groups):
        return {
            f"encoder/block_group{g}_block{n}/conv1/kernel": (1,)
            for g, count in enumerate(groups, 1)
            for n in range(1, count + 1)
        }

    assert "--resnet_depth=34 (here 18)" in describe_differences(blocks(3, 4, 6, 3), blocks(2, 2, 2, 2))


def test_difference_lists_missing_extra_and_shapes():
    message = describe_differences({"encoder/a": (1,), "encoder/b": (2,)}, {"encoder/b": (3,), "encoder/c": (4,)})
    assert "1 of other shape (encoder/b [2] here [3])" in message
    assert "1 missing (encoder/c), 1 extra (encoder/a)" in message
