"""Configuration of runs and tools: frozen dataclasses that check their values when they are made.

Every field has the name of its command-line flag, and the default of the authors' TF2 program if that
has the flag. This package does not import TensorFlow, so a wrong value fails at once.
"""

from tf_simclr.config.checks import PreemptedError as PreemptedError
from tf_simclr.config.checks import UserError as UserError
from tf_simclr.config.checks import check as check
from tf_simclr.config.checks import check_readable_place as check_readable_place
from tf_simclr.config.checks import is_handle as is_handle
from tf_simclr.config.checks import is_remote as is_remote
from tf_simclr.config.commands import TOOLS as TOOLS
from tf_simclr.config.commands import Run as Run
from tf_simclr.config.commands import Tool as Tool
from tf_simclr.config.commands import all_settings as all_settings
from tf_simclr.config.data import LABEL_SETTINGS as LABEL_SETTINGS
from tf_simclr.config.data import AugmentConfig as AugmentConfig
from tf_simclr.config.data import DataConfig as DataConfig
from tf_simclr.config.data import absolute_dataset as absolute_dataset
from tf_simclr.config.data import public_dataset as public_dataset
from tf_simclr.config.data import public_path as public_path
from tf_simclr.config.data import split_sources as split_sources
from tf_simclr.config.devices import StrategyConfig as StrategyConfig
from tf_simclr.config.experiment import FREE_SETTINGS as FREE_SETTINGS
from tf_simclr.config.experiment import ExperimentConfig as ExperimentConfig
from tf_simclr.config.experiment import SemiSupervisedConfig as SemiSupervisedConfig
from tf_simclr.config.experiment import default_model_dir as default_model_dir
from tf_simclr.config.label_efficiency import LabelEfficiencyConfig as LabelEfficiencyConfig
from tf_simclr.config.modes import LABEL_EFFICIENCY as LABEL_EFFICIENCY
from tf_simclr.config.modes import MODES as MODES
from tf_simclr.config.modes import PREVIEW as PREVIEW
from tf_simclr.config.modes import SEMI_SUPERVISED as SEMI_SUPERVISED
from tf_simclr.config.modes import TRAIN_MODES as TRAIN_MODES
from tf_simclr.config.network import MAX_WIDTH as MAX_WIDTH
from tf_simclr.config.network import ModelConfig as ModelConfig
from tf_simclr.config.preparation import PrepareConfig as PrepareConfig
from tf_simclr.config.preparation import PreviewConfig as PreviewConfig
from tf_simclr.config.setting import Setting as Setting
from tf_simclr.config.setting import settings_of as settings_of
from tf_simclr.config.suites import ROBUSTNESS_DATASETS as ROBUSTNESS_DATASETS
from tf_simclr.config.suites import TRANSFER_PROTOCOLS as TRANSFER_PROTOCOLS
from tf_simclr.config.suites import RobustnessConfig as RobustnessConfig
from tf_simclr.config.suites import TransferConfig as TransferConfig
from tf_simclr.config.tools import BenchmarkConfig as BenchmarkConfig
from tf_simclr.config.tools import EmbedConfig as EmbedConfig
from tf_simclr.config.tools import ExportConfig as ExportConfig
from tf_simclr.config.tools import ImportConfig as ImportConfig
from tf_simclr.config.tools import KnnEvalConfig as KnnEvalConfig
from tf_simclr.config.tools import LinearEvalConfig as LinearEvalConfig
from tf_simclr.config.tools import ProbeConfig as ProbeConfig
from tf_simclr.config.training import ContrastConfig as ContrastConfig
from tf_simclr.config.training import DistillConfig as DistillConfig
from tf_simclr.config.training import EvaluationConfig as EvaluationConfig
from tf_simclr.config.training import OptimizerConfig as OptimizerConfig
from tf_simclr.config.training import TrainConfig as TrainConfig
