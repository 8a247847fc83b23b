"""The configuration of a run: of one step, or of the whole method."""

import dataclasses
import os
from typing import Any

from tf_simclr.config.checks import UserError, check, check_at_most, check_readable_place
from tf_simclr.config.data import AugmentConfig, DataConfig
from tf_simclr.config.devices import StrategyConfig
from tf_simclr.config.network import ModelConfig
from tf_simclr.config.tools import TOOLS
from tf_simclr.config.training import (
    TRAIN_MODES,
    ContrastConfig,
    DistillConfig,
    EvaluationConfig,
    OptimizerConfig,
    TrainConfig,
)

SEMI_SUPERVISED = "semi_supervised"
LABEL_EFFICIENCY = "label_efficiency"
_NETWORK_SETTINGS = (
    "resnet_depth",
    "width_multiplier",
    "sk_ratio",
    "se_ratio",
    "proj_head_mode",
    "proj_out_dim",
    "num_proj_layers",
    "cifar_stem",
    "variable_dtype",
)
_FLAG_BEHIND = {"cifar_stem": "image_size", "variable_dtype": "precision"}


def default_model_dir(dataset: str, train_mode: str) -> str:
    """Returns `runs/<dataset>-<train_mode>`; of a path the last folder, and nothing that a file's name cannot hold."""
    names = [_short_name(source) for source in DataConfig(dataset=dataset).sources]
    name = "".join(c if c.isalnum() or c in "-_." else "_" for c in "_".join(names))
    return f"runs/{name}-{train_mode}"


def _short_name(source: str) -> str:
    """Returns a data set's name, or the last folder of its path that is no pattern."""
    kind, colon, path = source.partition(":")
    if not colon or kind not in ("folder", "tfrecord"):
        return source
    parts = [part for part in os.path.abspath(os.path.expanduser(path)).split(os.sep) if part]
    plain = [part for part in parts if kind == "folder" or not set(part) & set("*?[]{}")]
    return plain[-1] if plain else kind


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExperimentConfig:
    """Everything that one run is made of."""

    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    augment: AugmentConfig = dataclasses.field(default_factory=AugmentConfig)
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    contrast: ContrastConfig = dataclasses.field(default_factory=ContrastConfig)
    distill: DistillConfig = dataclasses.field(default_factory=DistillConfig)
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    train: TrainConfig = dataclasses.field(default_factory=TrainConfig)
    evaluation: EvaluationConfig = dataclasses.field(default_factory=EvaluationConfig)
    strategy: StrategyConfig = dataclasses.field(default_factory=StrategyConfig)
    mode: str = "train_then_eval"
    model_dir: str | None = None
    keep_hub_module_max: int = 1

    def __post_init__(self):
        modes = ("train", "eval", "train_then_eval")
        choices = ", ".join((*modes, *TRAIN_MODES, SEMI_SUPERVISED, LABEL_EFFICIENCY, *TOOLS))
        check(self.mode in modes, "mode", self.mode, f"use one of {choices}.")
        check_at_most(self, keep_hub_module_max=10**6)
        check(
            self.keep_hub_module_max >= 0,
            "keep_hub_module_max",
            self.keep_hub_module_max,
            "use 0 (no export) or more.",
        )
        check(
            self.train.train_mode == "finetune" or self.model.fine_tune_after_block == -1,
            "fine_tune_after_block",
            self.model.fine_tune_after_block,
            f"--train_mode={self.train.train_mode} trains the whole network; leave it out, or use it for "
            "finetuning: --finetune.fine_tune_after_block=, where that is one step of several.",
        )
        check(
            self.distill.teacher is None or self.train.train_mode == "distill",
            "teacher",
            self.distill.teacher,
            f"--train_mode={self.train.train_mode} has no teacher; leave it out, or use --train_mode=distill.",
        )
        check(
            self.train.checkpoint is None or self.train.train_mode != "supervised",
            "checkpoint",
            self.train.checkpoint,
            "the supervised baseline starts from scratch; leave it out, or use --train_mode=finetune.",
        )
        self._check_sources()
        self._check_chunks()
        self._check_memory()
        check(self.model_dir != "", "model_dir", "", "name a directory, or leave it out.")
        if self.model_dir is None:
            object.__setattr__(self, "model_dir", default_model_dir(self.data.dataset, self.train.train_mode))
        check_readable_place("model_dir", self.model_dir)
        object.__setattr__(self, "model_dir", os.path.expanduser(self.model_dir))

    def _check_sources(self) -> None:
        train_mode = self.train.train_mode
        without_labels = train_mode == "pretrain" or (train_mode == "distill" and self.distill.distill_alpha == 1)
        check(
            len(self.data.sources) == 1 or without_labels,
            "dataset",
            self.data.dataset,
            f"several sources are mixed without their labels, which --train_mode={train_mode} "
            f"{'with --distill_alpha below 1 ' if train_mode == 'distill' else ''}needs; name one of them.",
        )

    def _check_chunks(self) -> None:
        chunks = self.contrast.contrast_chunks
        check(
            chunks == 1 or self.train.train_mode == "pretrain",
            "contrast_chunks",
            chunks,
            f"--train_mode={self.train.train_mode} has no contrastive loss; leave it out, or use a smaller "
            "--train_batch_size.",
        )
        check(
            chunks == 1 or not self.model.global_bn,
            "contrast_chunks",
            chunks,
            "contradicts --global_bn=True, as a chunk cannot be normalised with the whole batch; use "
            "--global_bn=False, or --contrast_chunks=1.",
        )

    def _check_memory(self) -> None:
        size, momentum = self.contrast.memory_size, self.contrast.memory_momentum
        check(
            size > 0 or momentum == ContrastConfig().memory_momentum,
            "memory_momentum",
            momentum,
            "has no effect without a memory; leave it out, or use --memory_size too (the paper has 65536).",
        )
        if size == 0:
            return
        check(
            self.train.train_mode == "pretrain",
            "memory_size",
            size,
            f"--train_mode={self.train.train_mode} has no contrastive loss; leave it out.",
        )
        chunks, rows = self.contrast.contrast_chunks, 2 * self.train.train_batch_size
        check(
            chunks == 1,
            "memory_size",
            size,
            f"contradicts --contrast_chunks={chunks}, which a memory cannot be filled in; use one of the two.",
        )
        check(
            size >= rows,
            "memory_size",
            size,
            f"is less than the {rows} projections of a batch of {self.train.train_batch_size}; use {rows} or more, "
            "or a smaller batch.",
        )

    def check_inputs(self) -> None:
        """Raises UserError where training needs a checkpoint or a teacher and none is named."""
        if self.mode == "eval":
            return
        if self.train.train_mode == "finetune" and self.train.checkpoint is None:
            raise UserError(
                "--checkpoint: not given, but finetuning starts from a pretrained network; name the directory "
                "of its run, a checkpoint or a SavedModel, or use --train_mode=supervised."
            )
        if self.train.train_mode == "distill" and self.distill.teacher is None:
            raise UserError(
                "--teacher: not given, but distillation follows a teacher; name the directory of a finetuned "
                "run, a checkpoint in it, or a SavedModel with logits."
            )

    @property
    def runs(self) -> dict[str, "ExperimentConfig"]:
        """All runs of the command by name, in the order in which they are trained: this one alone."""
        return {self.train.train_mode: self}

    def to_dict(self) -> dict[str, Any]:
        """Returns {flag name: value} of all settings, ready for JSON."""
        flat: dict[str, Any] = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            is_group = dataclasses.is_dataclass(value) and not isinstance(value, type)
            flat |= dataclasses.asdict(value) if is_group else {field.name: value}
        return flat


@dataclasses.dataclass(frozen=True, kw_only=True)
class SemiSupervisedConfig:
    """The whole method: each step is a configuration of its own.

    The steps' directories lie below `model_dir`. Finetuning starts from what was pretrained, and is
    the teacher of the distillation, unless `checkpoint` or `teacher` name others.
    """

    pretrain: ExperimentConfig
    finetune: ExperimentConfig
    distill: ExperimentConfig
    supervised: ExperimentConfig
    model_dir: str

    def __post_init__(self):
        directory = os.path.expanduser(self.model_dir)
        object.__setattr__(self, "model_dir", directory)
        for name in TRAIN_MODES:
            step = getattr(self, name)
            check(
                step.train.train_mode == name,
                f"{name}.train_mode",
                step.train.train_mode,
                f"this step can be nothing but {name}.",
            )
            check(
                step.mode == "train_then_eval",
                "mode",
                step.mode,
                "the whole method trains and evaluates; name one step with --train_mode, or use train_then_eval.",
            )
            object.__setattr__(self, name, dataclasses.replace(step, model_dir=os.path.join(directory, name)))
        self._check_same_labels()
        if self.finetune.data.few_labels or not self._same_data("pretrain"):
            # The probe would see labels that finetuning must not.
            self._set("pretrain", "train", lineareval_while_pretraining=False)
        if self.finetune.train.checkpoint is None:
            self._check_same_network()
        self._set("finetune", "train", checkpoint=self.finetune.train.checkpoint or self.pretrain.model_dir)
        self._set("distill", "distill", teacher=self.distill.distill.teacher or self.finetune.model_dir)

    def _same_data(self, name: str) -> bool:
        ours, theirs = getattr(self, name).data, self.finetune.data
        return (ours.dataset, ours.labelled_split) == (theirs.dataset, theirs.labelled_split)

    def _check_same_labels(self) -> None:
        with_labels = ["supervised"] + (["distill"] if self.distill.distill.distill_alpha < 1 else [])
        for name in with_labels:
            check(
                self._same_data(name),
                f"{name}.dataset",
                self.steps[name].data.dataset,
                f"takes its labels from {self.steps[name].data.labelled_split}, finetuning from "
                f"{self.finetune.data.labelled_split} of {self.finetune.data.dataset}; use the same.",
            )
            for flag in ("label_fraction", "labels_per_class", "label_seed"):
                ours, theirs = getattr(self.steps[name].data, flag), getattr(self.finetune.data, flag)
                mend = f"finetuning has {theirs}; set --{flag} for all steps, that is without a step's name."
                check(ours == theirs, f"{name}.{flag}", ours, mend)
        for name, step in self.steps.items():
            check(
                step.strategy == self.pretrain.strategy,
                f"{name}.strategy",
                step.strategy.strategy,
                "all steps run on the same devices; set devices without a step's name.",
            )

    def _check_same_network(self) -> None:
        pretrained, finetuned = self.pretrain.model, self.finetune.model
        for name in _NETWORK_SETTINGS:
            flag = _FLAG_BEHIND.get(name, name)
            check(
                getattr(finetuned, name) == getattr(pretrained, name),
                f"finetune.{flag}",
                getattr(finetuned, flag),
                f"the network is pretrained with {getattr(pretrained, flag)}; use the same for both steps.",
            )

    def _set(self, name: str, group: str, **values: Any) -> None:
        step = getattr(self, name)
        changed = dataclasses.replace(getattr(step, group), **values)
        object.__setattr__(self, name, dataclasses.replace(step, **{group: changed}))

    def to_dict(self) -> dict[str, Any]:
        """Returns what tells the directory of the whole method from that of a single step."""
        return {"train_mode": SEMI_SUPERVISED}

    @property
    def runs(self) -> dict[str, ExperimentConfig]:
        """All runs of the command by name, in the order in which they are trained."""
        return self.steps

    @property
    def steps(self) -> dict[str, ExperimentConfig]:
        """The steps by name, in the order in which they run.

        Pretraining is none of them where finetuning starts from another network.
        """
        start = self.finetune.train.checkpoint
        names = TRAIN_MODES if start in (None, self.pretrain.model_dir) else TRAIN_MODES[1:]
        return {name: getattr(self, name) for name in names}
