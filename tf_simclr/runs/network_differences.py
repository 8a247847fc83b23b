"""Differences between the variables of two networks, and the flags that explain them."""

from collections.abc import Mapping
from typing import Any

from tf_simclr.config import ModelConfig
from tf_simclr.files import listed, one_line

_HEAD_KERNEL = "supervised_head/kernel"
_FLAGS = (
    *("resnet_depth", "width_multiplier", "sk_ratio", "se_ratio"),
    *("proj_head_mode", "num_proj_layers", "proj_out_dim"),
)

Shapes = Mapping[str, tuple[int, ...]]


def list_differences(saved: Shapes, expected: Shapes) -> str:
    """Returns the number and first names of variables of other shape, missing ones and extra ones; "" if none."""
    common = sorted(expected.keys() & saved.keys())
    kinds = {
        "of other shape": [f"{n} {list(saved[n])} here {list(expected[n])}" for n in common if saved[n] != expected[n]],
        "missing": sorted(expected.keys() - saved.keys()),
        "extra": sorted(saved.keys() - expected.keys()),
    }
    return ", ".join(f"{len(names)} {kind} ({listed(names)})" for kind, names in kinds.items() if names)


def explain_differences(saved: Shapes, expected: Shapes, settings: Mapping[str, Any], config: ModelConfig) -> str:
    """Returns the flags of the saved network that explain why it differs, for a message.

    Args:
        saved: shapes of the variables in a checkpoint, by their names in `SimCLRModel.variable_tree`.
        expected: those of the network that is to be restored.
        settings: of the run that wrote the checkpoint, as far as they are known.
        config: of the network that is to be restored.
    """
    flags = _explaining_flags(settings, config) + _explaining_head(saved, expected)
    if not flags and _HEAD_KERNEL in saved and saved[_HEAD_KERNEL] != expected.get(_HEAD_KERNEL):
        flags = ["another --ft_proj_selector"]
    return f"it was written with {', '.join(flags)}" if flags else "name a checkpoint of this network"


def _explaining_flags(settings: Mapping[str, Any], config: ModelConfig) -> list[str]:
    here = {name: getattr(config, name) for name in (*_FLAGS, "image_size")}
    differing = [name for name, value in here.items() if settings.get(name, value) != value]
    # The size of the images only decides between the two stems, so it explains what nothing else does.
    names = [name for name in differing if name != "image_size"] or differing
    return [one_line(f"--{name}={settings[name]} (here {here[name]})") for name in names]


def _explaining_head(saved: Shapes, expected: Shapes) -> list[str]:
    there, here = saved.get(_HEAD_KERNEL), expected.get(_HEAD_KERNEL)
    if there and here:
        return [f"{there[-1]} classes (here {here[-1]})"] if there[-1] != here[-1] else []
    if there:
        return ["--lineareval_while_pretraining=True (here False)"]
    if here:
        return ["no supervised head: finetune it, or start it with --lineareval_while_pretraining=False"]
    return []
