"""Settings of the network of a run."""

import dataclasses
from typing import ClassVar

from tf_simclr.config.setting import Settings, setting

# Residual blocks in each of the four groups, by depth.
RESNET_BLOCKS = {
    10: (1, 1, 1, 1),
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
    200: (3, 24, 36, 3),
}
MAX_WIDTH = 32


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig(Settings):
    """The encoder, the projection head, and the layer that the supervised head sits on."""

    topic: ClassVar[str] = "network"

    resnet_depth: int = setting(50, "Depth of the ResNet.", tuple(RESNET_BLOCKS))
    width_multiplier: float = setting(
        1.0,
        "Multiplier of all numbers of filters.",
        "a number above 0.0078125 (half a filter); such as 0.25, 1 or 2",
        limit=MAX_WIDTH,
    )
    sk_ratio: float = setting(0.0, "Selective kernels and ResNet-D.", "0 (off) to 1; the paper uses 0.0625 for SK")
    se_ratio: float = setting(0.0, "Squeeze and excitation.", "0 (off) to 1")
    image_size: int = setting(
        224, "Side of the network's images. Up to 32 uses the small stem.", "at least 8 pixels", limit=4096
    )
    proj_head_mode: str = setting("nonlinear", "Projection head.", ("none", "linear", "nonlinear"))
    proj_out_dim: int = setting(
        128, "Width of the projection head's output.", "at least 1; the authors use 128", limit=2**16
    )
    num_proj_layers: int = setting(
        3,
        "Layers of a nonlinear projection head.",
        "at least 1; SimCLRv2 uses 3, and --proj_head_mode=none has no head",
        limit=32,
    )
    ft_proj_selector: int = setting(
        0,
        "Layer that the supervised head sits on: 0 the encoder's output, k the projection head's layer k, -1 its last.",
    )
    zero_init_logits_layer: bool = setting(False, "Start the supervised head at zero.", unused_by=("transfer",))
    fine_tune_after_block: int = setting(
        -1,
        "Finetuning: freeze the stem and the block groups up to this one.",
        "-1 to 4; -1 trains everything, 0 freezes the stem, 4 trains only the linear head",
    )
    batch_norm_decay: float = setting(
        0.9, "Share of the old moving average that batch norm keeps.", "0 or more, less than 1; the authors use 0.9"
    )
    global_bn: bool = setting(True, "Batch-norm statistics over the batch of all replicas.")
    precision: str = setting(
        "float32",
        "Number format. mixed_*: compute in 16 bits, keep float32 weights. float64: for exact comparisons.",
        ("float32", "float64", "mixed_bfloat16", "mixed_float16"),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        layers = self.num_head_layers
        self._require(
            -1 <= self.ft_proj_selector <= layers,
            "ft_proj_selector",
            f"the projection head (--proj_head_mode={self.proj_head_mode}) has {layers} layer(s); "
            f"use 0 (encoder output) to {layers}, or -1 for the last.",
        )

    def describe(self) -> str:
        """Returns the network in a few words, such as `ResNet-50 2x SK 224 px`."""
        kinds = " SK" * bool(self.sk_ratio) + " SE" * bool(self.se_ratio)
        return f"ResNet-{self.resnet_depth} {self.width_multiplier:g}x{kinds} {self.image_size} px"

    @property
    def num_head_layers(self) -> int:
        """Number of layers of the projection head, 0 without one."""
        return {"none": 0, "linear": 1, "nonlinear": self.num_proj_layers}[self.proj_head_mode]

    @property
    def compute_dtype(self) -> str:
        """Number format of images, convolutions and all layers between them."""
        return self.precision.removeprefix("mixed_")

    @property
    def variable_dtype(self) -> str:
        """Number format of weights, statistics, outputs and losses."""
        return "float64" if self.precision == "float64" else "float32"

    @property
    def cifar_stem(self) -> bool:
        """True if the stem is the small one: 3x3, stride 1, no pooling."""
        return self.image_size <= 32
