"""All configurations that a command line can describe, and their settings."""

import dataclasses
import functools

from tf_simclr.config.experiment import ExperimentConfig, SemiSupervisedConfig
from tf_simclr.config.label_efficiency import LabelEfficiencyConfig
from tf_simclr.config.modes import PREVIEW
from tf_simclr.config.preparation import PrepareConfig, PreviewConfig
from tf_simclr.config.setting import Setting, settings_of
from tf_simclr.config.suites import RobustnessConfig, TransferConfig
from tf_simclr.config.tools import (
    BenchmarkConfig,
    EmbedConfig,
    ExportConfig,
    ImportConfig,
    KnnEvalConfig,
    LinearEvalConfig,
)

Run = ExperimentConfig | SemiSupervisedConfig | LabelEfficiencyConfig
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
TOOLS: dict[str, type[Tool]] = {
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


@functools.cache
def all_settings() -> dict[str, Setting]:
    """Returns all settings by name: the first declaration of each, with the types of all its declarations."""
    found: dict[str, Setting] = {}
    for owner in (ExperimentConfig, LabelEfficiencyConfig, *TOOLS.values()):
        for name, declared in settings_of(owner).items():
            first = found.get(name, declared)
            found[name] = dataclasses.replace(first, kind=first.kind | declared.kind)
    return found
