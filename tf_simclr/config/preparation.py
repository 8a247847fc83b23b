"""What is done with data before training: preparing it, looking at its views."""

import dataclasses
from typing import ClassVar

from tf_simclr.config.checks import check, check_at_most, check_given
from tf_simclr.config.data import AugmentConfig, DataConfig
from tf_simclr.config.devices import StrategyConfig
from tf_simclr.config.network import ModelConfig
from tf_simclr.config.training import ContrastConfig, DistillConfig, EvaluationConfig, OptimizerConfig, TrainConfig

PREVIEW = "preview"


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    """`--mode=prepare`: a folder of images becomes record files.

    `unused` are settings of `data` that are of no use here.
    """

    unused: ClassVar[tuple[str, ...]] = (
        "train_split",
        "eval_split",
        "cache_dataset",
        "label_fraction",
        "labels_per_class",
        "label_seed",
        "data_service",
    )

    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    output: str | None = None
    prepare_short_side: int = 0
    prepare_quality: int = 95
    prepare_shard_megabytes: int = 100
    prepare_shards: int = 0
    prepare_workers: int = 0
    seed: int = 0
    overwrite: bool = False

    def __post_init__(self):
        check_given("output", self.output, "name a directory for the record files.")
        check_at_most(self, prepare_short_side=2**14, prepare_shards=10**5, prepare_workers=1024)
        check_at_most(self, prepare_shard_megabytes=10**6)
        for name in ("prepare_short_side", "prepare_shards", "prepare_workers"):
            check(getattr(self, name) >= 0, name, getattr(self, name), "use 0 or more.")
        check(
            self.prepare_shard_megabytes >= 1,
            "prepare_shard_megabytes",
            self.prepare_shard_megabytes,
            "use at least 1.",
        )
        check(
            1 <= self.prepare_quality <= 100,
            "prepare_quality",
            self.prepare_quality,
            "use at least 1, and at most 100.",
        )
        check(0 <= self.seed < 2**31, "seed", self.seed, "use a whole number from 0 to 2147483647.")
        check(
            self.data.dataset.startswith("folder:"),
            "dataset",
            self.data.dataset,
            "only folders of images are prepared; name one as folder:PATH.",
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class PreviewConfig:
    """`--mode=preview`: a picture of the views that a training run sees first.

    Its command line is that of the run with `--mode=preview`: what the run needs beside these is passed over.
    """

    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    augment: AugmentConfig = dataclasses.field(default_factory=AugmentConfig)
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    contrast: ContrastConfig = dataclasses.field(default_factory=ContrastConfig)
    distill: DistillConfig = dataclasses.field(default_factory=DistillConfig)
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    train: TrainConfig = dataclasses.field(default_factory=TrainConfig)
    evaluation: EvaluationConfig = dataclasses.field(default_factory=EvaluationConfig)
    strategy: StrategyConfig = dataclasses.field(default_factory=StrategyConfig)
    model_dir: str | None = None
    output: str | None = None
    preview_images: int = 8
    preview_views: int = 0
    overwrite: bool = False

    def __post_init__(self):
        check_given("output", self.output, "name a file for the picture, such as views.png.")
        check(
            str(self.output).endswith(".png"),
            "output",
            self.output,
            "the picture is a PNG; name one such as views.png.",
        )
        check(
            "://" not in str(self.output),
            "output",
            self.output,
            "is not a path; write to a local file, then copy it.",
        )
        check(
            1 <= self.preview_images <= 64,
            "preview_images",
            self.preview_images,
            "use at least 1, and at most 64.",
        )
        check(
            0 <= self.preview_views <= 16,
            "preview_views",
            self.preview_views,
            "use 0 (as many as training takes) or more, at most 16.",
        )
