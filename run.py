"""SimCLRv2 from the command line: flags -> configuration -> training, evaluation, export.

python run.py --mode=train_then_eval
python run.py --help
"""

import logging
import sys

from tf_simclr import __version__
from tf_simclr import config as configs
from tf_simclr.terminal.ending import missing_package, status_of
from tf_simclr.terminal.interrupts import interrupts_tell
from tf_simclr.terminal.noise import without_noise
from tf_simclr.terminal.output import end_output, log_to_standard_output, show

try:
    from flags.convert import parse_command_line
    from flags.help import asks_for_help, help_text
except ModuleNotFoundError as error:
    sys.exit(f"error: {missing_package(error)}")


def console() -> None:
    """Runs the command line of this process and ends it: `tf-simclr`, `python -m tf_simclr` and `python run.py`."""
    status = main(sys.argv[1:])
    end_output()
    sys.exit(status)


def main(arguments: list[str]) -> int:
    """Runs the command line `arguments`; returns the exit status."""
    if asks_for_help(arguments):
        return status_of(lambda: show(help_text(arguments)))
    if "--version" in arguments:
        show(f"tf_simclr {__version__}")
        return 0
    log_to_standard_output()
    return status_of(lambda: work(arguments))


def work(arguments: list[str]) -> None:
    """Does what the command line `arguments` says."""
    config, notes = parse_command_line(arguments)
    for note in notes:
        logging.getLogger("tf_simclr").info(note)
    with without_noise():
        if isinstance(config, configs.Tool):
            run_tool(config)
        else:
            run(config)


def run(config: configs.Run) -> dict:
    """Runs a configuration, with an export of each step and a report; returns its result."""
    # TensorFlow starts only here: a wrong flag has failed before.
    from exports.export import SavedModelExport
    from tf_simclr import semi_supervised, train_and_evaluate
    from tf_simclr.distribution.strategies import is_chief_process, wait_for_workers
    from tf_simclr.report import update_report
    from tf_simclr.runs.checkpoint_list import newest_start

    def make_actions(step: configs.ExperimentConfig) -> list:
        keep = step.keep_hub_module_max
        return [SavedModelExport(str(step.model_dir), keep)] if keep else []

    with interrupts_tell(lambda: newest_start(config)):
        match config:
            case configs.LabelEfficiencyConfig():
                from tf_simclr.workflows.label_efficiency import measure_label_efficiency

                result = measure_label_efficiency(config, make_actions)
            case configs.SemiSupervisedConfig():
                result = semi_supervised(config, make_actions)
            case configs.ExperimentConfig():
                result = train_and_evaluate(config, make_actions(config))
        # A curve writes a page of its own.
        if not isinstance(config, configs.LabelEfficiencyConfig) and is_chief_process():
            update_report(config, result)
        wait_for_workers()
    return result


def run_tool(config: configs.Tool) -> None:
    """Does with data or a trained network what the configuration says; loads only what that needs."""
    match config:
        case configs.ExportConfig():
            from exports.export import export_checkpoint

            export_checkpoint(config)
        case configs.ImportConfig():
            from exports.export import export_checkpoint
            from tf_simclr.interop.released import import_weights

            export_checkpoint(import_weights(config))
        case configs.EmbedConfig():
            from tf_simclr.evaluation.embed import embed

            embed(config)
        case configs.LinearEvalConfig() | configs.KnnEvalConfig():
            from tf_simclr.evaluation.probe import probe

            probe(config)
        case configs.TransferConfig():
            from tf_simclr.suites.transfer import transfer

            transfer(config)
        case configs.RobustnessConfig():
            from tf_simclr.suites.robustness import robustness

            robustness(config)
        case configs.PrepareConfig():
            from tf_simclr.preparation.prepare import prepare

            prepare(config)
        case configs.PreviewConfig():
            from tf_simclr.preparation.preview import preview

            preview(config)
        case configs.BenchmarkConfig():
            from benchmarks.command import run_benchmark

            run_benchmark(config)


if __name__ == "__main__":
    console()
