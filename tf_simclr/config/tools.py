"""Settings of the tools for trained networks: export, import, embed, probes, benchmarks."""

import dataclasses
import os
from typing import ClassVar

from tf_simclr.config.checks import UserError, check_readable_place
from tf_simclr.config.data import DataConfig
from tf_simclr.config.experiment import ExperimentConfig, TrainingConfig
from tf_simclr.config.network import ModelConfig
from tf_simclr.config.setting import Settings, same_as, setting
from tf_simclr.config.training import EvaluationConfig, TrainConfig

EXPORT_FORMATS = ("saved_model", "folded", "tflite", "onnx", "pytorch")
# Default repetitions of each benchmark.
_REPEATS = {"step": 7, "input": 7, "inference": 15, "memory": 5, "startup": 5, "flops": 1}
BENCHMARKS = tuple(_REPEATS)
FEATURE_EXTENSIONS = (".npz", ".parquet", ".tfrecord")
PICTURE_EXTENSION = ".png"
OUTPUT_EXTENSIONS = (*FEATURE_EXTENSIONS, PICTURE_EXTENSION)
WHICH_NETWORK = "name the network: the directory of a run, a checkpoint in it, or a SavedModel"
RESULT_FILE = (
    "the result is a file of JSON; name one such as result.json, or leave it out: it goes to the directory of the run"
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportConfig(Settings):
    """`--mode=export`: turns a checkpoint into modules for other programs."""

    topic: ClassVar[str] = "export"

    checkpoint: str | None = same_as(TrainConfig, "checkpoint", fix="")
    model_dir: str | None = same_as(ExperimentConfig, "model_dir")
    export_formats: str = setting(
        "saved_model",
        "Formats that export writes. saved_model is also a TF-Hub module. folded has batch norm folded into the "
        "convolutions. onnx needs tf2onnx. pytorch uses torchvision's names.",
        EXPORT_FORMATS,
        several=True,
    )
    keep_hub_module_max: int = same_as(ExperimentConfig, "keep_hub_module_max", values="at least 1")
    overwrite: bool = setting(
        False, "Replace an existing output; for transfer and robustness, results with other settings.", topic="run"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.checkpoint or self.model_dir):
            raise UserError("--checkpoint: not given; name the directory of a run, or a checkpoint in it.")
        check_readable_place("model_dir", str(self.model_dir))

    @property
    def formats(self) -> tuple[str, ...]:
        """Names of the formats, without repetitions."""
        return tuple(dict.fromkeys(name.strip() for name in self.export_formats.split(",")))


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImportConfig(Settings):
    """`--mode=import`: turns the authors' released weights into a run of this program.

    `stated` names the settings of `model` that the user gave; the file has to agree with them.
    """

    topic: ClassVar[str] = "export"

    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    checkpoint: str | None = same_as(
        TrainConfig, "checkpoint", required=True, fix="name a TF1 checkpoint or a TF2 SavedModel of released weights"
    )
    model_dir: str | None = same_as(
        ExperimentConfig, "model_dir", required=True, fix="name the directory that the imported network is written to"
    )
    ema: bool = setting(False, "Import the moving average of the weights, ema_model/, if the file has it.")
    overwrite: bool = same_as(ExportConfig, "overwrite")
    keep_hub_module_max: int = same_as(ExportConfig, "keep_hub_module_max")
    stated: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        check_readable_place("model_dir", str(self.model_dir))


@dataclasses.dataclass(frozen=True, kw_only=True)
class NetworkToolConfig(Settings):
    """Work with a trained network on data."""

    topic: ClassVar[str] = "features"

    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    checkpoint: str | None = same_as(TrainConfig, "checkpoint", required=True, fix=WHICH_NETWORK)
    eval_batch_size: int = same_as(EvaluationConfig, "eval_batch_size")
    overwrite: bool = same_as(ExportConfig, "overwrite")


@dataclasses.dataclass(frozen=True, kw_only=True)
class EmbedConfig(NetworkToolConfig):
    """`--mode=embed`: writes features of a data set to files."""

    split: str = setting("train", "Split of --dataset that embed reads.", fix="name a split, such as train")
    output: str | None = setting(
        None,
        "Where a tool writes. embed: features as .npz, .parquet or .tfrecord, or a map of them as .png. "
        "linear_eval, knn_eval and robustness: a .json file; the directory of the run "
        "if not given. prepare: a directory of record files. preview: a .png file.",
        required=True,
        fix="name the file for the features, such as features.npz",
        topic="run",
    )
    endpoint: str = setting(
        "default",
        "Output of the network that embed writes, and that linear_eval, knn_eval and transfer classify.",
        fix="name an output, such as default",
    )
    shard_size: int = setting(50_000, "Maximum number of images in one file of embed.", "at least 1", limit=10**9)

    def __post_init__(self) -> None:
        super().__post_init__()
        extensions = ", ".join(OUTPUT_EXTENSIONS)
        is_known = self._extension in OUTPUT_EXTENSIONS
        self._require(is_known, "output", f"the extension names the format; use one of {extensions}.")
        fix = f"has no meaning with --output={self.output}, which is no file of features; leave it out."
        self._require(not self.is_shown or self.shard_size == type(self).shard_size, "shard_size", fix)

    @property
    def _extension(self) -> str:
        return os.path.splitext(str(self.output))[1]

    @property
    def is_shown(self) -> bool:
        """True if the output is a picture, not a file of features."""
        return self._extension == PICTURE_EXTENSION


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProbeConfig(NetworkToolConfig):
    """Evaluation of the frozen features of a network. `mode` is the flag's value."""

    mode: ClassVar[str]

    output: str | None = same_as(EmbedConfig, "output", required=False, pattern=r".*\.json", fix=RESULT_FILE)
    endpoint: str = same_as(EmbedConfig, "endpoint")
    seed: int = same_as(TrainConfig, "seed")


@dataclasses.dataclass(frozen=True, kw_only=True)
class LinearEvalConfig(ProbeConfig):
    """`--mode=linear_eval`: a linear classifier on frozen features."""

    mode: ClassVar[str] = "linear_eval"

    linear_eval_protocol: str = setting(
        "lbfgs",
        "lbfgs: logistic regression with an L2 penalty chosen on validation images (SimCLR, B.8). sgd: 90 epochs of "
        "Nesterov momentum, as in the paper's linear evaluation but without augmentation.",
        ("lbfgs", "sgd"),
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class KnnEvalConfig(ProbeConfig):
    """`--mode=knn_eval`: a vote of the nearest training images."""

    mode: ClassVar[str] = "knn_eval"

    knn_neighbors: int = setting(
        0,
        "Nearest training images that vote. Automatic: the mean number of labels per class, at most 200.",
        "0 (automatic) or more",
    )
    knn_temperature: float = setting(
        0.1, "Divisor of the cosine similarity in the weight of a vote.", "at least 0.01; such as 0.1", limit=1000
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class BenchmarkConfig(TrainingConfig):
    """`--mode=benchmark`: speed and memory on this machine.

    Nothing is saved, resumed or scheduled. All benchmarks use `benchmark_batch_size`. `stated` names the settings
    that the user gave.
    """

    topic: ClassVar[str] = "benchmark"

    benchmark: str = setting("inference", "What to measure. step: a training step. flops: counts.", BENCHMARKS)
    benchmark_batch_size: int = setting(8, "Images in a batch. Each gives two views while pretraining.", "at least 1")
    benchmark_repeats: int | None = setting(None, "Repetitions; 1 to 15, by the benchmark, if not given.", "at least 1")
    benchmark_trace_only: bool = setting(
        False, "startup: trace the first step without running it, for networks that are too big to run."
    )
    stated: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        fix = f"--benchmark={self.benchmark} has to run; leave it out, or use --benchmark=startup."
        self._require(not self.benchmark_trace_only or self.benchmark == "startup", "benchmark_trace_only", fix)
        if self.benchmark in ("inference", "flops"):
            return
        self._require(
            self.benchmark_batch_size >= 2 or self.train.train_mode != "pretrain",
            "benchmark_batch_size",
            "the contrastive loss needs at least 2 images a batch.",
        )
        chunks = self.contrast.contrast_chunks
        fix = f"cannot be cut into --contrast_chunks={chunks} equal parts; use a multiple of {chunks}."
        self._require(self.benchmark_batch_size % chunks == 0, "benchmark_batch_size", fix)

    @property
    def repeats(self) -> int:
        """Repetitions: `benchmark_repeats`, or the default of the benchmark."""
        return self.benchmark_repeats or _REPEATS[self.benchmark]
