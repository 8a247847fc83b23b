"""What is done with trained networks: exporting, importing, embedding, probing, measuring."""

import dataclasses
import math
import os
from typing import ClassVar

from tf_simclr.config.checks import (
    WHICH_NETWORK,
    check,
    check_at_most,
    check_choice,
    check_given,
    check_readable_place,
)
from tf_simclr.config.data import AugmentConfig, DataConfig
from tf_simclr.config.devices import StrategyConfig
from tf_simclr.config.network import ModelConfig
from tf_simclr.config.preparation import PREVIEW, PrepareConfig, PreviewConfig
from tf_simclr.config.suites import RobustnessConfig, TransferConfig
from tf_simclr.config.training import ContrastConfig, DistillConfig, OptimizerConfig, TrainConfig

EXPORT_FORMATS = ("saved_model", "folded", "tflite", "onnx", "pytorch")
# With the repetitions of each where none are asked for.
_REPEATS = {"step": 7, "input": 7, "inference": 15, "memory": 5, "startup": 5, "flops": 1}
BENCHMARKS = tuple(_REPEATS)
FEATURE_EXTENSIONS = (".npz", ".parquet", ".tfrecord")
PICTURE_EXTENSIONS = (".png", ".projector")
OUTPUT_EXTENSIONS = FEATURE_EXTENSIONS + PICTURE_EXTENSIONS
LINEAR_EVAL_PROTOCOLS = ("lbfgs", "sgd")


def _check_at_least_one(tool: object, *names: str) -> None:
    for name in names:
        check(getattr(tool, name) >= 1, name, getattr(tool, name), "use at least 1.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """`--mode=export`: a checkpoint becomes modules for other programs."""

    checkpoint: str | None = None
    model_dir: str | None = None
    export_formats: str = "saved_model"
    keep_hub_module_max: int = 1
    overwrite: bool = False

    def __post_init__(self):
        check_given(
            "checkpoint",
            self.checkpoint or self.model_dir,
            "name the directory of a run, or a checkpoint in it.",
        )
        check_readable_place("model_dir", str(self.model_dir))
        for name in self.formats:
            check(
                name in EXPORT_FORMATS,
                "export_formats",
                self.export_formats,
                f"use one or more of {', '.join(EXPORT_FORMATS)}, with commas between them.",
            )
        check_at_most(self, keep_hub_module_max=10**6)
        _check_at_least_one(self, "keep_hub_module_max")

    @property
    def formats(self) -> tuple[str, ...]:
        """The formats by name, each once."""
        return tuple(dict.fromkeys(name.strip() for name in self.export_formats.split(",")))


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImportConfig:
    """`--mode=import`: weights that the authors released become a run of this program.

    `stated` names the settings of `model` that the user gave: the file has to agree with them.
    """

    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    checkpoint: str | None = None
    model_dir: str | None = None
    ema: bool = False
    overwrite: bool = False
    keep_hub_module_max: int = 1
    stated: tuple[str, ...] = ()

    def __post_init__(self):
        check_given("checkpoint", self.checkpoint, "name a TF1 checkpoint or a TF2 SavedModel of released weights.")
        check_given("model_dir", self.model_dir, "name the directory that the imported network is written to.")
        check_readable_place("model_dir", str(self.model_dir))
        check_at_most(self, keep_hub_module_max=10**6)
        _check_at_least_one(self, "keep_hub_module_max")


@dataclasses.dataclass(frozen=True, kw_only=True)
class EmbedConfig:
    """`--mode=embed`: features of a data set, into files.

    `unused` are settings of `data` that are of no use here.
    """

    unused: ClassVar[tuple[str, ...]] = (
        "mix",
        "train_split",
        "eval_split",
        "label_fraction",
        "labels_per_class",
        "label_seed",
        "data_service",
    )

    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    split: str = "train"
    checkpoint: str | None = None
    output: str | None = None
    endpoint: str = "default"
    eval_batch_size: int = 256
    shard_size: int = 50_000
    overwrite: bool = False

    def __post_init__(self):
        check_given("checkpoint", self.checkpoint, WHICH_NETWORK)
        check_given("output", self.output, "name the file for the features, such as features.npz.")
        check(
            self._extension in OUTPUT_EXTENSIONS,
            "output",
            self.output,
            f"the extension names the format; use one of {', '.join(OUTPUT_EXTENSIONS)}.",
        )
        check(
            not self.is_shown or self.shard_size == type(self).shard_size,
            "shard_size",
            self.shard_size,
            f"has no meaning with --output={self.output}, which is no file of features; leave it out.",
        )
        check(bool(self.split), "split", self.split, "name a split, such as train.")
        check(bool(self.endpoint), "endpoint", self.endpoint, "name an output, such as default.")
        check_at_most(self, eval_batch_size=2**20, shard_size=10**9)
        _check_at_least_one(self, "eval_batch_size", "shard_size")

    @property
    def _extension(self) -> str:
        return os.path.splitext(str(self.output))[1]

    @property
    def is_shown(self) -> bool:
        """Whether the output is a picture or for TensorBoard's projector, and no file of features."""
        return self._extension in PICTURE_EXTENSIONS


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProbeConfig:
    """What is evaluated on the frozen features of a network, however it is.

    `mode` is the flag's value, `unused` are settings of `data` that are of no use here.
    """

    mode: ClassVar[str]
    unused: ClassVar[tuple[str, ...]] = ("mix", "data_service")

    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    checkpoint: str | None = None
    output: str | None = None
    endpoint: str = "default"
    eval_batch_size: int = 256
    seed: int = 0
    overwrite: bool = False

    def __post_init__(self):
        check_given("checkpoint", self.checkpoint, WHICH_NETWORK)
        check(
            self.output is None or self.output.endswith(".json"),
            "output",
            self.output,
            "the result is a file of JSON; name one such as result.json, or leave it out: it goes to the "
            "directory of the run.",
        )
        check(bool(self.endpoint), "endpoint", self.endpoint, "name an output, such as default.")
        check_at_most(self, eval_batch_size=2**20)
        _check_at_least_one(self, "eval_batch_size")
        check(0 <= self.seed < 2**31, "seed", self.seed, "use a whole number from 0 to 2147483647.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class LinearEvalConfig(ProbeConfig):
    """`--mode=linear_eval`: a linear classifier on frozen features."""

    mode: ClassVar[str] = "linear_eval"

    linear_eval_protocol: str = "lbfgs"

    def __post_init__(self):
        super().__post_init__()
        check_choice("linear_eval_protocol", self.linear_eval_protocol, LINEAR_EVAL_PROTOCOLS)


@dataclasses.dataclass(frozen=True, kw_only=True)
class KnnEvalConfig(ProbeConfig):
    """`--mode=knn_eval`: the votes of the nearest training images."""

    mode: ClassVar[str] = "knn_eval"

    knn_neighbors: int = 0
    knn_temperature: float = 0.1

    def __post_init__(self):
        super().__post_init__()
        check_at_most(self, knn_neighbors=10**6, knn_temperature=1000)
        check(self.knn_neighbors >= 0, "knn_neighbors", self.knn_neighbors, "use 0 (automatic) or more.")
        check(
            math.isfinite(self.knn_temperature) and self.knn_temperature >= 0.01,
            "knn_temperature",
            self.knn_temperature,
            "divides the similarities; use at least 0.01, such as 0.1.",
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class BenchmarkConfig:
    """`--mode=benchmark`: speed and memory on this machine.

    `unused` are settings of a training run that are of no use here: nothing is saved, resumed or scheduled, and
    `benchmark_batch_size` is the batch of all benchmarks. `stated` names the settings that the user gave.
    """

    unused: ClassVar[tuple[str, ...]] = (
        "train_batch_size",
        "train_epochs",
        "train_steps",
        "checkpoint",
        "checkpoint_epochs",
        "checkpoint_steps",
        "keep_checkpoint_max",
        "steps_per_loop",
        "preemption_grace",
        "on_non_finite",
        "profile_steps",
        "eval_split",
        "data_service",
        "teacher",
        "allow_remote_teacher",
        "learning_rate_scaling",
        "warmup_epochs",
    )

    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    augment: AugmentConfig = dataclasses.field(default_factory=AugmentConfig)
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    contrast: ContrastConfig = dataclasses.field(default_factory=ContrastConfig)
    distill: DistillConfig = dataclasses.field(default_factory=DistillConfig)
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    train: TrainConfig = dataclasses.field(default_factory=TrainConfig)
    strategy: StrategyConfig = dataclasses.field(default_factory=StrategyConfig)
    benchmark: str = "inference"
    benchmark_batch_size: int = 8
    benchmark_repeats: int | None = None
    benchmark_trace_only: bool = False
    stated: tuple[str, ...] = ()

    def __post_init__(self):
        check_choice("benchmark", self.benchmark, BENCHMARKS)
        check_at_most(self, benchmark_batch_size=2**20, benchmark_repeats=10**6)
        _check_at_least_one(self, "benchmark_batch_size")
        check(
            self.benchmark_repeats is None or self.benchmark_repeats >= 1,
            "benchmark_repeats",
            self.benchmark_repeats,
            "use at least 1.",
        )
        check(
            not self.benchmark_trace_only or self.benchmark == "startup",
            "benchmark_trace_only",
            self.benchmark_trace_only,
            f"--benchmark={self.benchmark} has to run; leave it out, or use --benchmark=startup.",
        )
        self._check_batch()

    def _check_batch(self) -> None:
        if self.benchmark in ("inference", "flops"):
            return
        check(
            self.benchmark_batch_size >= 2 or self.train.train_mode != "pretrain",
            "benchmark_batch_size",
            self.benchmark_batch_size,
            "the contrastive loss needs at least 2 images a batch.",
        )
        chunks = self.contrast.contrast_chunks
        check(
            self.benchmark_batch_size % chunks == 0,
            "benchmark_batch_size",
            self.benchmark_batch_size,
            f"cannot be cut into --contrast_chunks={chunks} equal parts; use a multiple of {chunks}.",
        )

    @property
    def repeats(self) -> int:
        """Repetitions: as many as were asked for, or else what suits the benchmark."""
        return self.benchmark_repeats or _REPEATS[self.benchmark]


TOOLS: dict[str, type] = {
    "export": ExportConfig,
    "import": ImportConfig,
    "embed": EmbedConfig,
    "linear_eval": LinearEvalConfig,
    "knn_eval": KnnEvalConfig,
    "transfer": TransferConfig,
    "robustness": RobustnessConfig,
    "benchmark": BenchmarkConfig,
    "prepare": PrepareConfig,
    PREVIEW: PreviewConfig,
}
Tool = (
    ExportConfig
    | ImportConfig
    | EmbedConfig
    | LinearEvalConfig
    | KnnEvalConfig
    | TransferConfig
    | RobustnessConfig
    | BenchmarkConfig
    | PrepareConfig
    | PreviewConfig
)
