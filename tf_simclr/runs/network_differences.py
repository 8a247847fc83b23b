"""Differences between the variables of two networks, and the flags that explain them."""

from collections.abc import Mapping

from tf_simclr.files import listed
from tf_simclr.models.resnet import depth_of

_FIRST_BLOCK = "encoder/block_group1_block1"
_LAST_GROUP_BLOCK = "encoder/block_group4_block1"
_HEAD_KERNEL = "supervised_head/kernel"

Shapes = Mapping[str, tuple[int, ...]]


def describe_differences(saved: Shapes, expected: Shapes) -> str | None:
    """Returns what differs, with the flags of the saved network that explain it; None if nothing differs.

    Args:
        saved: shapes of the variables in a checkpoint, by their names in `SimCLRModel.variable_tree`.
        expected: those of the network that is to be restored.
    """
    differences = list_differences(saved, expected)
    if not differences:
        return None
    flags = _explaining_flags(saved, expected)
    fix = f"it was written with {', '.join(flags)}" if flags else "name a checkpoint of this network"
    return f"another network; variables: {differences}; {fix}."


def list_differences(saved: Shapes, expected: Shapes) -> str:
    """Returns the number and first names of variables of other shape, missing ones and extra ones; "" if none."""
    common = sorted(expected.keys() & saved.keys())
    kinds = {
        "of other shape": [f"{n} {list(saved[n])} here {list(expected[n])}" for n in common if saved[n] != expected[n]],
        "missing": sorted(expected.keys() - saved.keys()),
        "extra": sorted(saved.keys() - expected.keys()),
    }
    return ", ".join(f"{len(names)} {kind} ({listed(names)})" for kind, names in kinds.items() if names)


def _explaining_flags(saved: Shapes, expected: Shapes) -> list[str]:
    have, want = _encoder_flags(saved) | _head_flags(saved), _encoder_flags(expected) | _head_flags(expected)
    flags = [
        f"--{name}={value}" + (f" (here {want[name]})" if name in want else "")
        for name, value in have.items()
        if want.get(name) != value
    ]
    there, here = saved.get(_HEAD_KERNEL), expected.get(_HEAD_KERNEL)
    if there and here:
        if there[-1] != here[-1]:
            flags.append(f"{there[-1]} classes (here {here[-1]})")
        elif there != here and not flags:
            flags.append("another --ft_proj_selector")
    elif there:
        flags.append("--lineareval_while_pretraining=True (here False)")
    elif here:
        flags.append("no supervised head: finetune it, or start it with --lineareval_while_pretraining=False")
    return flags


def _encoder_flags(shapes: Shapes) -> dict[str, object]:
    """Returns {flag: value} of the encoder that has variables of these shapes."""
    blocks = {name.split("/")[1] for name in shapes if name.startswith("encoder/block_group")}
    groups = [sum(block.startswith(f"block_group{group}_") for block in blocks) for group in (1, 2, 3, 4)]
    flags: dict[str, object] = {"resnet_depth": depth_of(groups, bottleneck=f"{_FIRST_BLOCK}/conv3/kernel" in shapes)}
    if first := shapes.get(f"{_FIRST_BLOCK}/conv1/kernel"):
        flags["width_multiplier"] = first[-1] / 64
    deep_stem = "encoder/stem/conv2/kernel" in shapes
    small_stem = not deep_stem and shapes.get("encoder/stem/conv1/kernel", (7,))[0] == 3
    flags["image_size"] = "32 or less" if small_stem else "above 32"
    flags["sk_ratio"] = _ratio(shapes, "mix_conv1") or ("above 0" if deep_stem else 0)
    flags["se_ratio"] = _ratio(shapes, "squeeze") or 0
    return flags


def _ratio(shapes: Shapes, layer: str) -> str | None:
    """Returns the share of the filters that `layer` squeezes a block to; rounding hides the exact one."""
    squeezed = shapes.get(f"{_LAST_GROUP_BLOCK}/{layer}/kernel")
    filters = shapes.get(f"{_LAST_GROUP_BLOCK}/conv1/kernel")
    return f"{squeezed[-1] / filters[-1]:.4g}" if squeezed and filters else None


def _head_flags(shapes: Shapes) -> dict[str, object]:
    """Returns {flag: value} of the projection head that has variables of these shapes."""
    kernels = [name for name in shapes if name.startswith("projection_head/") and name.endswith("dense/kernel")]
    if not kernels:
        return {"proj_head_mode": "none"}
    last = f"projection_head/layer{len(kernels)}/dense/kernel"
    flags: dict[str, object] = {"proj_head_mode": "linear or nonlinear", "num_proj_layers": len(kernels)}
    return flags | ({"proj_out_dim": shapes[last][-1]} if last in shapes else {})
