"""The one configuration of a run: frozen dataclasses that check their values when they are made.

Every field is named like its command-line flag, and its default is the default of the authors' TF2
program where that has the flag. This package imports no TensorFlow: a wrong value fails at once.
"""

from tf_simclr.config.checks import (
    PreemptedError,
    UserError,
    check,
    check_readable_place,
    is_handle,
    is_remote,
)
from tf_simclr.config.data import (
    AugmentConfig,
    DataConfig,
    absolute_dataset,
    public_dataset,
    public_path,
    split_sources,
)
from tf_simclr.config.devices import StrategyConfig
from tf_simclr.config.experiment import (
    LABEL_EFFICIENCY,
    SEMI_SUPERVISED,
    ExperimentConfig,
    SemiSupervisedConfig,
    default_model_dir,
)
from tf_simclr.config.label_efficiency import LabelEfficiencyConfig, Run
from tf_simclr.config.network import MAX_WIDTH, NUM_BLOCK_GROUPS, RESNET_DEPTHS, ModelConfig
from tf_simclr.config.preparation import PREVIEW, PrepareConfig, PreviewConfig
from tf_simclr.config.suites import ROBUSTNESS_DATASETS, TRANSFER_PROTOCOLS, RobustnessConfig, TransferConfig
from tf_simclr.config.tools import (
    BENCHMARKS,
    EXPORT_FORMATS,
    TOOLS,
    BenchmarkConfig,
    EmbedConfig,
    ExportConfig,
    ImportConfig,
    KnnEvalConfig,
    LinearEvalConfig,
    ProbeConfig,
    Tool,
)
from tf_simclr.config.training import (
    TRAIN_MODES,
    ContrastConfig,
    DistillConfig,
    EvaluationConfig,
    OptimizerConfig,
    TrainConfig,
)

__all__ = [
    "BENCHMARKS",
    "EXPORT_FORMATS",
    "LABEL_EFFICIENCY",
    "MAX_WIDTH",
    "NUM_BLOCK_GROUPS",
    "PREVIEW",
    "RESNET_DEPTHS",
    "ROBUSTNESS_DATASETS",
    "SEMI_SUPERVISED",
    "TOOLS",
    "TRAIN_MODES",
    "TRANSFER_PROTOCOLS",
    "AugmentConfig",
    "BenchmarkConfig",
    "ContrastConfig",
    "DataConfig",
    "DistillConfig",
    "EmbedConfig",
    "EvaluationConfig",
    "ExperimentConfig",
    "ExportConfig",
    "ImportConfig",
    "KnnEvalConfig",
    "LabelEfficiencyConfig",
    "LinearEvalConfig",
    "ModelConfig",
    "OptimizerConfig",
    "PreemptedError",
    "PrepareConfig",
    "PreviewConfig",
    "ProbeConfig",
    "RobustnessConfig",
    "Run",
    "SemiSupervisedConfig",
    "StrategyConfig",
    "Tool",
    "TrainConfig",
    "TransferConfig",
    "UserError",
    "absolute_dataset",
    "check",
    "check_readable_place",
    "default_model_dir",
    "is_handle",
    "is_remote",
    "public_dataset",
    "public_path",
    "split_sources",
]
