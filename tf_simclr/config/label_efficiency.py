"""Configuration of a curve of accuracy against the number of labels."""

import dataclasses
import functools
import os
from typing import Any, ClassVar

from tf_simclr.config.checks import check
from tf_simclr.config.data import DataConfig
from tf_simclr.config.experiment import ExperimentConfig, SemiSupervisedConfig
from tf_simclr.config.modes import LABEL_EFFICIENCY, TRAIN_MODES
from tf_simclr.config.setting import Settings, same_as, setting

_TRAINED_METHODS = TRAIN_MODES[1:]
FROZEN_METHODS = ("linear_eval", "raw_pixels", "label_spreading")
METHODS = (*_TRAINED_METHODS, *FROZEN_METHODS)
_COUNTS = r" *0*[1-9]\d{0,8} *"


@dataclasses.dataclass(frozen=True, kw_only=True)
class LabelEfficiencyConfig(Settings):
    """`--mode=label_efficiency`: stages of the whole method on more and more labels, several times each.

    `method` has the settings of all stages except their labels, seeds and directories. Draw k adds k to
    `label_seed` and `seed`. It starts from network k modulo `num_pretrained`, whose pretraining adds the number of
    the network to `seed`, or from the network that `checkpoint` names.
    """

    topic: ClassVar[str] = "labels"

    method: SemiSupervisedConfig
    labels_per_class: str = same_as(
        DataConfig,
        "labels_per_class",
        default="1,2,5,10,50",
        values="",
        pattern=f"{_COUNTS}(,{_COUNTS})*",
        fix="use whole numbers of at least 1, with commas between them, such as 1,2,5,10,50",
    )
    num_seeds: int = setting(
        3,
        "Runs of label_efficiency for each number of labels. Run k adds k to --label_seed and --seed.",
        "at least 1",
        limit=1000,
    )
    efficiency_methods: str = setting(
        "finetune,supervised",
        "Methods that label_efficiency compares. linear_eval: logistic regression on the frozen encoder. raw_pixels: "
        "the same on the pixels. label_spreading: scikit-learn's, on the pixels.",
        METHODS,
        several=True,
    )
    num_pretrained: int = setting(
        1,
        "Networks that label_efficiency pretrains, with --seed, --seed + 1, ... Run k starts from network k modulo "
        "this number.",
        "at least 1; at most --num_seeds",
    )
    efficiency_baseline: str = setting(
        "supervised",
        "Result that label_efficiency subtracts, run by run on the same labels: one of the methods, or the directory "
        "of another curve.",
        fix="use one of --efficiency_methods, or the directory of another curve",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        fix = f"use 1 to {self.num_seeds}, the value of --num_seeds."
        self._require(self.num_pretrained <= self.num_seeds, "num_pretrained", fix)
        one_start = self.num_pretrained == 1 or "pretrain" in self.method.stages
        self._require(one_start, "num_pretrained", "all draws start from --checkpoint; leave one of them out.")
        is_there = self.efficiency_baseline in (type(self).efficiency_baseline, *self.methods)
        fix = "use one of --efficiency_methods, or the directory of another curve."
        self._require(is_there or self.other_curve is not None, "efficiency_baseline", fix)
        split = self.method.finetune.data.eval_split
        for name in set(self.methods) & set(_TRAINED_METHODS):
            own = getattr(self.method, name).data.eval_split
            fix = f"finetuning has {split}; use the same images for all methods."
            check(own == split, f"{name}.eval_split", own, fix)
        self._require(
            "distill" not in self.methods or "finetune" in self.methods or not self._is_own_teacher,
            "efficiency_methods",
            "the student's teacher is the finetuned network; add finetune, or name a teacher with --distill.teacher=.",
        )

    def to_dict(self) -> dict[str, Any]:
        """Returns the entry that marks the directory of a curve."""
        return {"train_mode": LABEL_EFFICIENCY}

    @property
    def model_dir(self) -> str:
        """The directory of the curve, below which each run has its own."""
        return self.method.model_dir

    @functools.cached_property
    def labels(self) -> tuple[int, ...]:
        """The numbers of labels of each class, in ascending order."""
        return tuple(sorted({int(part) for part in self.labels_per_class.split(",")}))

    @functools.cached_property
    def methods(self) -> tuple[str, ...]:
        """The compared methods, in the order in which they run."""
        named = {name.strip() for name in self.efficiency_methods.split(",")}
        return tuple(name for name in METHODS if name in named)

    @property
    def frozen_methods(self) -> tuple[str, ...]:
        """The methods that train no network."""
        return tuple(name for name in self.methods if name in FROZEN_METHODS)

    @property
    def other_curve(self) -> str | None:
        """The directory of the curve that `efficiency_baseline` names; None if it is a method."""
        return None if self.efficiency_baseline in METHODS else self.efficiency_baseline

    @property
    def uses_pretrained(self) -> bool:
        """True if a method starts from a pretrained network."""
        return "finetune" in self.methods or "linear_eval" in self.methods

    @functools.cached_property
    def networks(self) -> tuple[ExperimentConfig, ...]:
        """The pretraining of each network; empty if no method starts from one, or `checkpoint` names it."""
        if not self.uses_pretrained or "pretrain" not in self.method.stages:
            return ()
        first = self.method.pretrain
        others = (
            dataclasses.replace(
                first,
                model_dir=f"{first.model_dir}_{number}",
                train=dataclasses.replace(first.train, seed=first.train.seed + number),
            )
            for number in range(1, self.num_pretrained)
        )
        return (first, *others)

    @functools.cached_property
    def runs(self) -> dict[str, ExperimentConfig]:
        """All runs in order, by their directory below `model_dir`.

        The whole curve of a draw comes before the next draw. Frozen methods have no runs.
        """
        runs = {os.path.basename(str(network.model_dir)): network for network in self.networks}
        trained = [name for name in self.methods if name not in FROZEN_METHODS]
        for draw in range(self.num_seeds):
            for labels in self.labels:
                stages = self._stages_of_draw(labels, draw)
                runs |= {self.run_name(name, labels, draw): stages[name] for name in trained}
        return runs

    def settings_of(self, method: str, labels: int, draw: int) -> ExperimentConfig:
        """Returns the settings of a method in one draw; a frozen one has those of finetuning."""
        return self._stages_of_draw(labels, draw)["finetune" if method in FROZEN_METHODS else method]

    @staticmethod
    def run_name(method: str, labels: int, draw: int) -> str:
        """Returns the name of a run in `runs`."""
        return f"labels_{labels}/seed_{draw}/{method}"

    def _stages_of_draw(self, labels: int, draw: int) -> dict[str, ExperimentConfig]:
        directory = os.path.join(self.model_dir, os.path.dirname(self.run_name("", labels, draw)))
        stages = {name: _with_labels(getattr(self.method, name), labels, draw) for name in _TRAINED_METHODS}
        if self.networks:
            network = self.networks[draw % self.num_pretrained]
            train = dataclasses.replace(stages["finetune"].train, checkpoint=network.model_dir)
            stages["finetune"] = dataclasses.replace(stages["finetune"], train=train)
        if self._is_own_teacher:
            distill = dataclasses.replace(stages["distill"].distill, teacher=None)  # The teacher of the same draw.
            stages["distill"] = dataclasses.replace(stages["distill"], distill=distill)
        return dataclasses.replace(self.method, model_dir=directory, **stages).stages

    @property
    def _is_own_teacher(self) -> bool:
        return self.method.distill.distill.teacher == self.method.finetune.model_dir


def _with_labels(stage: ExperimentConfig, labels: int, draw: int) -> ExperimentConfig:
    label_seed = stage.data.label_seed + draw
    data = dataclasses.replace(stage.data, labels_per_class=labels, label_fraction=1.0, label_seed=label_seed)
    train = dataclasses.replace(stage.train, seed=stage.train.seed + draw)
    return dataclasses.replace(stage, data=data, train=train)
