"""The network of a run."""

import dataclasses

from tf_simclr.config.checks import check, check_at_most, check_choice, check_finite

RESNET_DEPTHS = (18, 34, 50, 101, 152, 200)
NUM_BLOCK_GROUPS = 4
MAX_WIDTH = 32
PRECISIONS = ("float32", "float64", "mixed_bfloat16", "mixed_float16")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The network: encoder, projection head and where the supervised head sits on it."""

    resnet_depth: int = 50
    width_multiplier: float = 1.0
    sk_ratio: float = 0.0
    se_ratio: float = 0.0
    image_size: int = 224
    proj_head_mode: str = "nonlinear"
    proj_out_dim: int = 128
    num_proj_layers: int = 3
    ft_proj_selector: int = 0
    zero_init_logits_layer: bool = False
    fine_tune_after_block: int = -1
    batch_norm_decay: float = 0.9
    global_bn: bool = True
    precision: str = "float32"

    def __post_init__(self):
        check_finite(self)
        check_at_most(self, width_multiplier=MAX_WIDTH, image_size=4096, proj_out_dim=2**16, num_proj_layers=32)
        check_choice("resnet_depth", self.resnet_depth, RESNET_DEPTHS)
        check(
            self.width_multiplier > 0 and round(64 * self.width_multiplier) >= 1,
            "width_multiplier",
            self.width_multiplier,
            "must leave at least one filter; use a positive number such as 0.25, 1 or 2.",
        )
        for flag in ("sk_ratio", "se_ratio"):
            value = getattr(self, flag)
            check(0 <= value <= 1, flag, value, "use 0 (off) to 1; the paper uses 0.0625 for SK.")
        check(self.image_size >= 8, "image_size", self.image_size, "use at least 8 pixels.")
        check(
            0 <= self.batch_norm_decay < 1,
            "batch_norm_decay",
            self.batch_norm_decay,
            "use a number from 0 up to, but not, 1; the authors use 0.9.",
        )
        check_choice("precision", self.precision, PRECISIONS)
        self._check_heads()

    def _check_heads(self):
        check_choice("proj_head_mode", self.proj_head_mode, ("none", "linear", "nonlinear"))
        check(self.proj_out_dim >= 1, "proj_out_dim", self.proj_out_dim, "use at least 1; the authors use 128.")
        check(
            self.num_proj_layers >= 1,
            "num_proj_layers",
            self.num_proj_layers,
            "use at least 1 (SimCLRv2 uses 3), or --proj_head_mode=none for no head.",
        )
        layers = self.num_head_layers
        check(
            -1 <= self.ft_proj_selector <= layers,
            "ft_proj_selector",
            self.ft_proj_selector,
            f"the projection head (--proj_head_mode={self.proj_head_mode}) has {layers} layer(s); "
            f"use 0 (encoder output) to {layers}, or -1 for the last.",
        )
        check(
            -1 <= self.fine_tune_after_block <= NUM_BLOCK_GROUPS,
            "fine_tune_after_block",
            self.fine_tune_after_block,
            "use -1 (train everything), 0 (freeze the stem) to 4 (train only the linear head).",
        )

    @property
    def num_head_layers(self) -> int:
        """Number of layers of the projection head, 0 without one."""
        return {"none": 0, "linear": 1, "nonlinear": self.num_proj_layers}[self.proj_head_mode]

    @property
    def compute_dtype(self) -> str:
        """Number format of images, convolutions and whatever lies between them."""
        return self.precision.removeprefix("mixed_")

    @property
    def variable_dtype(self) -> str:
        """Number format of weights, statistics, outputs and losses."""
        return "float64" if self.precision == "float64" else "float32"

    @property
    def cifar_stem(self) -> bool:
        """Whether the stem is the small one: 3x3, stride 1, no pooling."""
        return self.image_size <= 32
