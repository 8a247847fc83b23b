"""SimCLRv2 from the command line: flags -> configuration -> training, evaluation, export.

python run.py --mode=train_then_eval
python run.py --help
"""

import importlib
import logging
import sys

from tf_simclr.config import (
    BenchmarkConfig,
    EmbedConfig,
    ExperimentConfig,
    ExportConfig,
    ImportConfig,
    LabelEfficiencyConfig,
    PrepareConfig,
    PreviewConfig,
    ProbeConfig,
    RobustnessConfig,
    Run,
    SemiSupervisedConfig,
    Tool,
    TransferConfig,
)
from tf_simclr.terminal.ending import missing_package, status_of
from tf_simclr.terminal.interrupts import interrupts_tell
from tf_simclr.terminal.noise import without_noise
from tf_simclr.terminal.output import end_output, log_to_standard_output, show

try:
    from flags.convert import asks_for_help, help_text, parse_command_line
except ModuleNotFoundError as error:
    sys.exit(f"error: {missing_package(error)}")


def main(arguments: list[str]) -> int:
    """Runs the command line `arguments`; returns the exit status."""
    if asks_for_help(arguments):
        show(help_text())
        return 0
    log_to_standard_output()
    return status_of(lambda: work(arguments))


def work(arguments: list[str]) -> None:
    """Does what the command line `arguments` says."""
    config, notes = parse_command_line(arguments)
    for note in notes:
        logging.getLogger("tf_simclr").info(note)
    with without_noise():
        if isinstance(config, Tool):
            run_tool(config)
        else:
            run(config)


def run(config: Run) -> dict:
    """Runs a configuration, with an export of each step and a report; returns its result."""
    # TensorFlow starts only here: a wrong flag has failed before.
    from exports.export import SavedModelExport
    from tf_simclr import semi_supervised, train_and_evaluate
    from tf_simclr.preemption import newest_start
    from tf_simclr.report import update_report
    from tf_simclr.strategies import is_chief_process, wait_for_workers

    def make_actions(step: ExperimentConfig) -> list:
        keep = step.keep_hub_module_max
        return [SavedModelExport(step.model_dir, keep)] if keep else []

    with interrupts_tell(lambda: newest_start(config)):
        match config:
            case LabelEfficiencyConfig():
                from tf_simclr.label_efficiency import measure_label_efficiency

                result = measure_label_efficiency(config, make_actions)
            case SemiSupervisedConfig():
                result = semi_supervised(config, make_actions)
            case ExperimentConfig():
                result = train_and_evaluate(config, make_actions(config))
        # A curve writes a page of its own.
        if not isinstance(config, LabelEfficiencyConfig) and is_chief_process():
            update_report(config, result)
        wait_for_workers()
    return result


# Who does the work is imported when it is to be done.
_WORKERS = {
    ExportConfig: "exports.export.export_checkpoint",
    EmbedConfig: "tf_simclr.embed.embed",
    ProbeConfig: "tf_simclr.probe.probe",
    TransferConfig: "tf_simclr.transfer.transfer",
    RobustnessConfig: "tf_simclr.robustness.robustness",
    PrepareConfig: "tf_simclr.prepare.prepare",
    PreviewConfig: "tf_simclr.preview.preview",
    BenchmarkConfig: "benchmarks.command.run_benchmark",
}


def run_tool(config: Tool) -> None:
    """Does with data or a trained network what the configuration says."""
    if isinstance(config, ImportConfig):
        from tf_simclr.interop.released import import_weights

        config = import_weights(config)  # What is imported is exported.
    worker = next(name for kind, name in _WORKERS.items() if isinstance(config, kind))
    module, _, function = worker.rpartition(".")
    getattr(importlib.import_module(module), function)(config)


if __name__ == "__main__":
    status = main(sys.argv[1:])
    end_output()
    sys.exit(status)
