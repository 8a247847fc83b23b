"""Differences between two networks, and the flags that explain them."""

import pytest

from tf_simclr.config import ModelConfig
from tf_simclr.runs.network_differences import explain_differences, list_differences

HEAD = "supervised_head/kernel"
PROBE = "--lineareval_while_pretraining"
FLAGS = {"resnet_depth": 18, "image_size": 16, "sk_ratio": 0.0}


@pytest.mark.parametrize(
    ("saved", "settings", "explained"),
    [
        ({"a": (1,)}, {"resnet_depth": 34, "image_size": 224}, "it was written with --resnet_depth=34 (here 18)"),
        ({"a": (1,)}, {"image_size": 224}, "it was written with --image_size=224 (here 16)"),
        ({"a": (1,)}, {"sk_ratio": "\n"}, r"it was written with --sk_ratio=\n (here 0.0)"),
        ({"a": (1,)}, {}, "name a checkpoint of this network"),
        ({HEAD: (8, 7)}, {}, "it was written with 7 classes (here 10)"),
        ({HEAD: (4, 10)}, {}, "it was written with another --ft_proj_selector"),
        ({HEAD: None}, {}, f"it was written with no supervised head: finetune it, or start it with {PROBE}=False"),
    ],
)
def test_difference_is_explained_by_its_flags(saved, settings, explained):
    expected = {"a": (2,), HEAD: (8, 10)}
    saved = {name: shape for name, shape in ({"a": (2,), HEAD: (8, 10)} | saved).items() if shape}
    assert list_differences(saved, expected).startswith("1 ")
    assert explain_differences(saved, expected, FLAGS | settings, ModelConfig(**FLAGS)) == explained


def test_difference_of_a_head_that_is_not_here_is_explained():
    explained = explain_differences({HEAD: (8, 10)}, {}, {}, ModelConfig())
    assert explained == f"it was written with {PROBE}=True (here False)"


def test_difference_lists_missing_extra_and_shapes():
    saved, expected = {"encoder/a": (1,), "encoder/b": (2,)}, {"encoder/b": (3,), "encoder/c": (4,)}
    assert list_differences(saved, saved) == ""
    assert list_differences(saved, expected) == (
        "1 of other shape (encoder/b [2] here [3]), 1 missing (encoder/c), 1 extra (encoder/a)"
    )
