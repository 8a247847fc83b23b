"""Which network a file of released weights holds, told from the names and shapes of its variables."""

import collections
import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tf_simclr.config import ModelConfig, UserError
from tf_simclr.interop.released_files import ReleasedFile, numbered
from tf_simclr.models.resnet import nearest_depth

Shapes = Mapping[str, tuple]

_PAPERS_RATIO = 0.0625
_LEAST_SK_WIDTH = 32
_LEAST_SE_WIDTH = 1
_SUPERVISED_HEAD = "head_supervised/linear_layer/dense"


@dataclasses.dataclass(frozen=True)
class _Release:
    """What the authors trained for a number of steps that no other of their releases has."""

    what: str
    train_mode: str
    head_layer: int


_RELEASES = {
    250_228: _Release("pretrained", "pretrain", 0),
    751: _Release("finetuned on 1% of the labels", "finetune", 1),
    3_754: _Release("finetuned on 10% of the labels", "finetune", 1),
    37_535: _Release("finetuned on all labels", "finetune", 0),
    28_151: _Release("the supervised baseline", "supervised", 0),
}


@dataclasses.dataclass(frozen=True)
class ReleasedNetwork:
    """A network that was found in a file.

    Attributes:
        config: with which it is built here.
        num_classes: of its supervised head; None without one.
        train_mode: how it was trained.
        evidence: what tells where the supervised head sits, for the user.
    """

    config: ModelConfig
    num_classes: int | None
    train_mode: str
    evidence: str

    def describe(self) -> str:
        """Returns one line for the user."""
        config = self.config
        parts = [f"ResNet-{config.resnet_depth}, width {config.width_multiplier:g}"]
        parts += [f"SK {config.sk_ratio:g}"] if config.sk_ratio else []
        parts += [f"SE {config.se_ratio:g}"] if config.se_ratio else []
        parts += ["the stem for small images"] if config.cifar_stem else []
        layers = config.num_head_layers
        parts += [f"{layers} layer(s) of projection head to {config.proj_out_dim}"] if layers else []
        parts += [f"{self.num_classes} classes"] if self.num_classes else []
        return f"{', '.join(parts)} ({self.train_mode}); {self.evidence}"


def infer_network(file: ReleasedFile, asked: ModelConfig, stated: Sequence[str] = ()) -> ReleasedNetwork:
    """Tells depth, width, SK, SE, stem, heads and classes from a file.

    Where variables are missing or of another shape it is the nearest network.

    Args:
        file: the variables.
        asked: settings of the network; those that a file says nothing about are taken from it.
        stated: names of those in `asked` that the user gave. They decide where the file leaves something open.

    Raises:
        UserError: the file contradicts what is stated, or leaves open what has to be known.
    """
    shapes = file.shapes
    given = {name: getattr(asked, name) for name in stated}
    found = _encoder_settings(file, given) | _head_settings(shapes)
    if not file_agrees(asked.image_size, found.pop("cifar_stem"), given):
        found["image_size"] = 32 if asked.image_size > 32 else 224
    _check_stated(given, found)
    config = dataclasses.replace(asked, **(found | {"ft_proj_selector": 0}))
    num_classes = _num_classes(shapes)
    release = _RELEASES.get(file.step or 0)
    if num_classes is None:
        return ReleasedNetwork(config, None, "pretrain", "no supervised head")
    layer, reason = _layer_of_supervised_head(file, config, release, given.get("ft_proj_selector"))
    untold = "finetune" if config.num_head_layers else "pretrain"  # SimCLR v1: a probe, and no other head.
    return ReleasedNetwork(
        dataclasses.replace(config, ft_proj_selector=layer),
        num_classes,
        release.train_mode if release else untold,
        f"the supervised head sits on {_layer_name(layer)}: {reason}",
    )
