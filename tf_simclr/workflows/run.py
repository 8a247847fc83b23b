"""A training command: it tells what an interrupt keeps, and writes the report."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tf_simclr.config import ExperimentConfig, LabelEfficiencyConfig, Run, SemiSupervisedConfig
from tf_simclr.distribution.strategies import is_chief_process, wait_for_workers
from tf_simclr.report import update_report
from tf_simclr.runs.checkpoint_list import newest_start
from tf_simclr.terminal.interrupts import interrupts_tell
from tf_simclr.training.experiment import train_and_evaluate
from tf_simclr.training.loop import Action
from tf_simclr.workflows.semi_supervised import semi_supervised


def run(config: Run, make_actions: Callable[[ExperimentConfig], Sequence[Action]] = lambda stage: ()) -> None:
    """Runs the stages that `config` describes, and writes the report.

    Args:
        config: of a stage, the whole method or a curve.
        make_actions: returns the actions of a stage; see `train_and_evaluate`.

    Raises:
        UserError: if a flag, a file or the data is wrong.
        KeyboardInterrupt: with what is kept, if the user interrupts the work.
    """
    with interrupts_tell(lambda: newest_start(config)):
        match config:
            case LabelEfficiencyConfig():
                from tf_simclr.workflows.label_efficiency import measure_label_efficiency

                measure_label_efficiency(config, make_actions)  # Writes a page of its own.
            case SemiSupervisedConfig():
                _report(config, semi_supervised(config, make_actions))
            case ExperimentConfig():
                _report(config, train_and_evaluate(config, make_actions(config)))
        wait_for_workers()


def _report(config: ExperimentConfig | SemiSupervisedConfig, result: Mapping[str, Any]) -> None:
    if is_chief_process():
        update_report(config, result)
