"""The whole method in one run: pretrain, finetune, distill, and the supervised baseline."""

import logging
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from tf_simclr.config import ExperimentConfig, SemiSupervisedConfig, UserError, is_handle
from tf_simclr.distribution.collectives import is_chief
from tf_simclr.distribution.strategies import make_strategy
from tf_simclr.files import to_json
from tf_simclr.interop.saved_models import check_module_is_local
from tf_simclr.runs.checkpoint_list import latest_checkpoint
from tf_simclr.runs.directory import check_directory, claim_directory, owning_directory, read_settings, write_outcome
from tf_simclr.runs.networks import find_checkpoint
from tf_simclr.terminal.entry import entry_point
from tf_simclr.training.actions import HeldActions
from tf_simclr.training.experiment import Experiment
from tf_simclr.training.loop import Action
from tf_simclr.training.loop_plan import relative_work

_LOG = logging.getLogger("tf_simclr")
_ACCURACY = "eval/label_top_1_accuracy"


@entry_point
def semi_supervised(
    config: SemiSupervisedConfig,
    make_actions: Callable[[ExperimentConfig], Iterable[Action]] = lambda step: (),
) -> dict[str, dict[str, Any]]:
    """Runs all steps of SimCLRv2 (arXiv 2006.10029), each in its directory; goes on where it was stopped.

    Args:
        config: of all steps.
        make_actions: takes the configuration of a step, returns its actions; see `train_and_evaluate`.

    Returns:
        The result of each step by its name, as `result.json` in `config.model_dir` has it.

    Raises:
        UserError: a flag, a file or the data is wrong. What other steps have done stays.
    """
    _check_starts(config)
    settings = {f"{n}.{flag}": v for n, step in config.steps.items() for flag, v in step.to_dict().items()}
    strategy = make_strategy(config.pretrain.strategy, settings)
    runs = {name: Experiment(step, strategy) for name, step in config.steps.items()}
    for run in runs.values():
        HeldActions(tuple(make_actions(run.config))).check(run.plan.total_steps)
        run.check_memory()
    work = {
        name: relative_work(run.config, run.plan, config.finetune.model if name == "distill" else None)
        for name, run in runs.items()
    }
    results = {}
    with owning_directory(config.model_dir, owns=is_chief(strategy)):
        check_directory(config)  # Another process may have owned it until now.
        if is_chief(strategy):
            claim_directory(config)
        for number, name in enumerate(config.steps, start=1):
            _LOG.info("[%d/%d] %s", number, len(config.steps), name)
            run = runs.pop(name)  # So that one network at a time is in memory.
            later_work = sum(work[later] for later in runs) / work[name]
            results[name] = run.train(tuple(make_actions(run.config)), later_work=later_work)
        if is_chief(strategy):
            write_outcome(config.model_dir, os.path.join(config.model_dir, "result.json"), to_json(results))
    for line in results_table(config, results):
        _LOG.info(line)
    return results


def _check_starts(config: SemiSupervisedConfig) -> None:
    """Raises UserError for what would let a later step fail, before any step is trained."""
    check_directory(config)
    for step in config.steps.values():
        check_directory(step)
    own = {step.model_dir for step in config.steps.values()}
    for name, step in config.steps.items():
        if step.train.checkpoint is not None and step.train.checkpoint not in own:
            find_checkpoint(step.train.checkpoint, f"{name}.checkpoint")
    if config.distill.distill.teacher not in own:
        check_teacher(config.distill)
    for earlier, later in (("pretrain", "finetune"), ("finetune", "distill")):
        if earlier in config.steps:
            check_not_stale(config.model_dir, config.steps[earlier], config.steps[later])


def check_teacher(distill: ExperimentConfig) -> None:
    """Raises UserError where the teacher of a distillation, which is none of its own runs, is not there."""
    teacher, allowed = str(distill.distill.teacher), distill.distill.allow_remote_teacher
    if not is_handle(teacher):
        find_checkpoint(teacher, "distill.teacher")
        check_module_is_local(teacher, "distill.teacher", allow_remote=allowed)


def check_not_stale(model_dir: str, earlier: ExperimentConfig, later: ExperimentConfig) -> None:
    """Raises UserError where a step has begun whose start was deleted: it would not follow the new one."""
    if latest_checkpoint(str(later.model_dir)) and not read_settings(str(earlier.model_dir)):
        raise UserError(
            f"--model_dir={model_dir}: {later.train.train_mode} has begun, but {earlier.train.train_mode}, which it "
            f"starts from, is gone; delete {later.model_dir} too, or use another --model_dir."
        )


def results_table(config: SemiSupervisedConfig, results: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Returns the lines of the table of all steps."""
    lines = [f"{'step':<12}{'network':<26}{'weights':>10}{'steps':>9}{'top-1':>9}{'top-5':>9}"]
    for name, result in results.items():
        cells = [f"{name:<12}", f"{config.steps[name].model.describe():<26}"]
        weights = f"{result['num_weights'] / 1e6:.2f} M" if "num_weights" in result else "-"
        cells += [f"{weights:>10}", f"{result['global_step']:>9}"]
        for key in (_ACCURACY, "eval/label_top_5_accuracy"):
            cells.append(f"{result[key]:>9.2%}" if result.get(key) is not None else f"{'-':>9}")
        lines.append("".join(cells))
    return lines
