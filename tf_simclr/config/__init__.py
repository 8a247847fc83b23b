"""Configuration of runs and tools: frozen dataclasses that check their values when they are made.

Every field has the name of its command-line flag, and the default of the authors' TF2 program if that
has the flag. This package does not import TensorFlow, so a wrong value fails at once.
"""

from tf_simclr.config.checks import PreemptedError, UserError, check, check_readable_place, is_handle, is_remote
from tf_simclr.config.commands import TOOLS, Run, Tool, all_settings
from tf_simclr.config.data import (
    LABEL_SETTINGS,
    AugmentConfig,
    DataConfig,
    absolute_dataset,
    public_dataset,
    public_path,
    split_sources,
)
from tf_simclr.config.devices import StrategyConfig
from tf_simclr.config.experiment import FREE_SETTINGS, ExperimentConfig, SemiSupervisedConfig, default_model_dir
from tf_simclr.config.label_efficiency import LabelEfficiencyConfig
from tf_simclr.config.modes import LABEL_EFFICIENCY, MODES, PREVIEW, SEMI_SUPERVISED, TRAIN_MODES
from tf_simclr.config.network import MAX_WIDTH, ModelConfig
from tf_simclr.config.preparation import PrepareConfig, PreviewConfig
from tf_simclr.config.setting import Setting, settings_of
from tf_simclr.config.suites import ROBUSTNESS_DATASETS, TRANSFER_PROTOCOLS, RobustnessConfig, TransferConfig
from tf_simclr.config.tools import (
    BenchmarkConfig,
    EmbedConfig,
    ExportConfig,
    ImportConfig,
    KnnEvalConfig,
    LinearEvalConfig,
    ProbeConfig,
)
from tf_simclr.config.training import ContrastConfig, DistillConfig, EvaluationConfig, OptimizerConfig, TrainConfig

__all__ = [
    "FREE_SETTINGS",
    "LABEL_EFFICIENCY",
    "LABEL_SETTINGS",
    "MAX_WIDTH",
    "MODES",
    "PREVIEW",
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
    "Setting",
    "StrategyConfig",
    "Tool",
    "TrainConfig",
    "TransferConfig",
    "UserError",
    "absolute_dataset",
    "all_settings",
    "check",
    "check_readable_place",
    "default_model_dir",
    "is_handle",
    "is_remote",
    "public_dataset",
    "public_path",
    "settings_of",
    "split_sources",
]
