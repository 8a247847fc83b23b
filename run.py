"""SimCLRv2 from the command line: flags -> configuration -> training, evaluation, export. Try `--help`."""

import sys

import tf_simclr
from tf_simclr import config as configs
from tf_simclr.terminal.ending import ending_with_status
from tf_simclr.terminal.noise import without_noise
from tf_simclr.terminal.output import end_program, log_lines, show


def console() -> None:
    """Runs the command line of this process and ends it: `tf-simclr`, `python -m tf_simclr` and `python run.py`."""
    end_program(main(sys.argv[1:]))


@ending_with_status
def main(arguments: list[str]) -> None:
    """Runs the command line `arguments`."""
    from flags.convert import parse_command_line
    from flags.help import help_text

    if (text := help_text(arguments)) is not None:
        return show(text)
    config, notes = parse_command_line(arguments)
    log_lines(notes)
    dispatch(config)


@without_noise()
def dispatch(config: configs.Run | configs.Tool) -> None:
    """Does what `config` describes, and loads only what that needs; TensorFlow starts here."""
    from benchmarks.command import run_benchmark
    from exports.export import export_actions, export_checkpoint

    match config:
        case configs.ExportConfig():
            export_checkpoint(config)
        case configs.ImportConfig():
            export_checkpoint(tf_simclr.import_weights(config))
        case configs.EmbedConfig():
            tf_simclr.embed(config)
        case configs.LinearEvalConfig() | configs.KnnEvalConfig():
            tf_simclr.probe(config)
        case configs.TransferConfig():
            tf_simclr.transfer(config)
        case configs.RobustnessConfig():
            tf_simclr.robustness(config)
        case configs.PrepareConfig():
            tf_simclr.prepare(config)
        case configs.PreviewConfig():
            tf_simclr.preview(config)
        case configs.BenchmarkConfig():
            run_benchmark(config)
        case _:
            tf_simclr.run(config, export_actions)


if __name__ == "__main__":
    console()
