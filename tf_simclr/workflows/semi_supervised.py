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


@entry_point
def semi_supervised(
    config: SemiSupervisedConfig, make_actions: Callable[[ExperimentConfig], Iterable[Action]] = lambda stage: ()
) -> dict[str, dict[str, Any]]:
    """Runs all stages of SimCLRv2 (arXiv 2006.10029), each in its directory; goes on where it was stopped.

    Args:
        config: of all stages.
        make_actions: takes the configuration of a stage, returns its actions; see `train_and_evaluate`.

    Returns:
        The result of each stage by its name: the content of `result.json` in `config.model_dir`.

    Raises:
        UserError: a flag, a file or the data is wrong. The results of other stages stay.
    """
    _check_starts(config)
    strategy = make_strategy(config.pretrain.strategy, settings_of_stages(config))
    runs = {name: Experiment(stage, strategy) for name, stage in config.stages.items()}
    work = {}
    for name, run in runs.items():
        HeldActions(tuple(make_actions(run.config))).check(run.plan.total_steps)
        run.check_memory()
        work[name] = relative_work(run.config, run.plan, config.finetune.model if name == "distill" else None)
    results = {}
    with owning_directory(config.model_dir, owns=is_chief(strategy)):
        check_directory(config)  # Another process may have owned it until now.
        if is_chief(strategy):
            claim_directory(config)
        for number, name in enumerate(config.stages, start=1):
            _LOG.info("[%d/%d] %s", number, len(config.stages), name)
            run = runs.pop(name)  # So that one network at a time is in memory.
            later_work = sum(work[later] for later in runs) / work[name]
            results[name] = run.train(tuple(make_actions(run.config)), later_work=later_work)
        if is_chief(strategy):
            write_outcome(config.model_dir, os.path.join(config.model_dir, "result.json"), to_json(results))
    for line in results_table(config, results):
        _LOG.info(line)
    return results


def settings_of_stages(config: SemiSupervisedConfig) -> dict[str, Any]:
    """Returns the settings of all stages as `<stage>.<flag>`."""
    return {f"{name}.{flag}": v for name, stage in config.stages.items() for flag, v in stage.to_dict().items()}


def _check_starts(config: SemiSupervisedConfig) -> None:
    """Raises UserError for what would let a later stage fail, before any stage is trained."""
    stages = config.stages
    check_directory(config)
    for stage in stages.values():
        check_directory(stage)
    own = {stage.model_dir for stage in stages.values()}
    for name, stage in stages.items():
        if stage.train.checkpoint is not None and stage.train.checkpoint not in own:
            find_checkpoint(stage.train.checkpoint, f"{name}.checkpoint")
    if config.distill.distill.teacher not in own:
        check_teacher(config.distill)
    for earlier, later in (("pretrain", "finetune"), ("finetune", "distill")):
        if earlier in stages:
            check_not_stale(config.model_dir, stages[earlier], stages[later])


def check_teacher(distill: ExperimentConfig) -> None:
    """Raises UserError if a teacher that this program does not train itself is not there."""
    teacher, allowed = str(distill.distill.teacher), distill.distill.allow_remote_teacher
    if not is_handle(teacher):
        find_checkpoint(teacher, "distill.teacher")
        check_module_is_local(teacher, "distill.teacher", allow_remote=allowed)


def check_not_stale(model_dir: str, earlier: ExperimentConfig, later: ExperimentConfig) -> None:
    """Raises UserError if a stage has begun whose start was deleted: it would not follow the new one."""
    if latest_checkpoint(str(later.model_dir)) and not read_settings(str(earlier.model_dir)):
        raise UserError(
            f"--model_dir={model_dir}: {later.train.train_mode} has begun, but {earlier.train.train_mode}, which it "
            f"starts from, is gone; delete {later.model_dir} too, or use another --model_dir."
        )


def results_table(config: SemiSupervisedConfig, results: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Returns the lines of the table of all stages."""
    lines = [f"{'stage':<12}{'network':<26}{'weights':>10}{'steps':>9}{'top-1':>9}{'top-5':>9}"]
    for name, result in results.items():
        weights = f"{result['num_weights'] / 1e6:.2f} M" if "num_weights" in result else "-"
        scores = [result.get(f"eval/label_top_{k}_accuracy") for k in (1, 5)]
        cells = "".join(f"{'-' if score is None else format(score, '.2%'):>9}" for score in scores)
        network = config.stages[name].model.describe()
        lines.append(f"{name:<12}{network:<26}{weights:>10}{result['global_step']:>9}{cells}")
    return lines
