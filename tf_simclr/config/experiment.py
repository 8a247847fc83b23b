"""Configuration of a run of one stage, or of the whole method."""

import dataclasses
import os
from typing import Any, ClassVar

from tf_simclr.config.checks import UserError, check, check_readable_place
from tf_simclr.config.data import LABEL_SETTINGS, AugmentConfig, DataConfig
from tf_simclr.config.devices import StrategyConfig
from tf_simclr.config.modes import MODES, SEMI_SUPERVISED, TRAIN_MODES
from tf_simclr.config.network import ModelConfig
from tf_simclr.config.setting import Settings, setting, setting_of_command, settings_of
from tf_simclr.config.training import ContrastConfig, DistillConfig, EvaluationConfig, OptimizerConfig, TrainConfig

_RUN_MODES = ("train", "eval", "train_then_eval")
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
    """Returns `runs/<dataset>-<train_mode>`, with the last folder of a path and only characters safe in a file name."""
    names = [_short_name(source) for source in DataConfig(dataset=dataset).sources]
    name = "".join(c if c.isalnum() or c in "-_." else "_" for c in "_".join(names))
    return f"runs/{name}-{train_mode}"


def _short_name(source: str) -> str:
    """Returns a data set's name, or the last part of its path that is not a pattern."""
    kind, colon, path = source.partition(":")
    if not colon or kind not in ("folder", "tfrecord"):
        return source
    parts = [part for part in os.path.abspath(os.path.expanduser(path)).split(os.sep) if part]
    plain = [part for part in parts if kind == "folder" or not set(part) & set("*?[]{}")]
    return plain[-1] if plain else kind


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingConfig(Settings):
    """All settings that training needs, in groups."""

    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    augment: AugmentConfig = dataclasses.field(default_factory=AugmentConfig)
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    contrast: ContrastConfig = dataclasses.field(default_factory=ContrastConfig)
    distill: DistillConfig = dataclasses.field(default_factory=DistillConfig)
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    train: TrainConfig = dataclasses.field(default_factory=TrainConfig)
    strategy: StrategyConfig = dataclasses.field(default_factory=StrategyConfig)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExperimentConfig(TrainingConfig):
    """All settings of one run."""

    topic: ClassVar[str] = "run"

    evaluation: EvaluationConfig = dataclasses.field(default_factory=EvaluationConfig)
    mode: str = setting_of_command("train_then_eval", "What to do.", tuple(MODES))
    model_dir: str | None = setting_of_command(
        None,
        "Directory of the run: checkpoints, results, exports; runs/<dataset>-<train_mode> if not given. "
        "semi_supervised keeps one subfolder per stage. transfer keeps results and finetuned networks here; in "
        "transfer/ in the network's directory if not given.",
        fix="name a directory, or leave it out",
    )
    keep_hub_module_max: int = setting(
        1, "SavedModels to keep. A run exports one, at its end.", "0 (no export) or more", free=True, topic="saving"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        train_mode = self.train.train_mode
        self._require(self.mode in _RUN_MODES, "mode", f"use one of {', '.join(MODES)}.")
        self._require(
            train_mode == "finetune" or self.model.fine_tune_after_block == -1,
            "fine_tune_after_block",
            f"--train_mode={train_mode} trains the whole network; leave it out, or use it for finetuning: "
            "--finetune.fine_tune_after_block= if it is one of several stages.",
        )
        fix = f"--train_mode={train_mode} has no teacher; leave it out, or use --train_mode=distill."
        self._require(self.distill.teacher is None or train_mode == "distill", "teacher", fix)
        fix = "the supervised baseline starts from scratch; leave it out, or use --train_mode=finetune."
        self._require(self.train.checkpoint is None or train_mode != "supervised", "checkpoint", fix)
        self._check_sources()
        self._check_chunks()
        self._check_memory()
        if self.model_dir is None:
            self._set(model_dir=default_model_dir(self.data.dataset, train_mode))
        check_readable_place("model_dir", str(self.model_dir))
        self._set(model_dir=os.path.expanduser(str(self.model_dir)))

    def _check_sources(self) -> None:
        distills = self.train.train_mode == "distill"
        without_labels = self.train.train_mode == "pretrain" or (distills and self.distill.distill_alpha == 1)
        self._require(
            len(self.data.sources) == 1 or without_labels,
            "dataset",
            f"several sources are mixed without their labels, which --train_mode={self.train.train_mode} "
            f"{'with --distill_alpha below 1 ' if distills else ''}needs; name one of them.",
        )

    def _check_chunks(self) -> None:
        whole = self.contrast.contrast_chunks == 1
        self._require(
            whole or self.train.train_mode == "pretrain",
            "contrast_chunks",
            f"--train_mode={self.train.train_mode} has no contrastive loss; leave it out, or use a smaller "
            "--train_batch_size.",
        )
        self._require(
            whole or not self.model.global_bn,
            "contrast_chunks",
            "contradicts --global_bn=True, because a chunk cannot be normalised with the whole batch; use "
            "--global_bn=False, or --contrast_chunks=1.",
        )

    def _check_memory(self) -> None:
        size, momentum = self.contrast.memory_size, self.contrast.memory_momentum
        fix = "has no effect without a memory; leave it out, or use --memory_size too (the paper has 65536)."
        self._require(size > 0 or momentum == ContrastConfig().memory_momentum, "memory_momentum", fix)
        fix = f"--train_mode={self.train.train_mode} has no contrastive loss; leave it out."
        self._require(size == 0 or self.train.train_mode == "pretrain", "memory_size", fix)
        chunks, rows = self.contrast.contrast_chunks, 2 * self.train.train_batch_size
        fix = f"contradicts --contrast_chunks={chunks}, because chunks cannot fill a memory; use one of the two."
        self._require(size == 0 or chunks == 1, "memory_size", fix)
        self._require(
            size == 0 or size >= rows,
            "memory_size",
            f"is less than the {rows} projections of a batch of {self.train.train_batch_size}; use {rows} or more, "
            "or a smaller batch.",
        )

    def check_inputs(self) -> None:
        """Raises UserError if training needs a checkpoint or a teacher that is not named."""
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
        """All runs of the command by name: only this one."""
        return {self.train.train_mode: self}


# Settings that may change between two starts of a run: neither the weights nor their meaning depend on them.
FREE_SETTINGS = frozenset(name for name, declared in settings_of(ExperimentConfig).items() if declared.free)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SemiSupervisedConfig:
    """The whole method, with one configuration per stage.

    The directories of the stages lie below `model_dir`. Finetuning starts from the pretrained network, and
    distillation follows the finetuned one, unless `checkpoint` or `teacher` name others.
    """

    pretrain: ExperimentConfig
    finetune: ExperimentConfig
    distill: ExperimentConfig
    supervised: ExperimentConfig
    model_dir: str

    def __post_init__(self) -> None:
        directory = os.path.expanduser(self.model_dir)
        object.__setattr__(self, "model_dir", directory)
        for name in TRAIN_MODES:
            stage: ExperimentConfig = getattr(self, name)
            self._require(stage.train.train_mode == name, name, "train_mode", f"this stage has to be {name}.")
            fix = "the whole method trains and evaluates; name one stage with --train_mode, or use train_then_eval."
            check(stage.mode == "train_then_eval", "mode", stage.mode, fix)
            object.__setattr__(self, name, dataclasses.replace(stage, model_dir=os.path.join(directory, name)))
        self._check_same_labels()
        if self.finetune.data.few_labels or not self._same_data("pretrain"):
            # The probe would see labels that finetuning must not see.
            self._set("pretrain", "train", lineareval_while_pretraining=False)
        if self.finetune.train.checkpoint is None:
            self._check_same_network()
        self._set("finetune", "train", checkpoint=self.finetune.train.checkpoint or self.pretrain.model_dir)
        self._set("distill", "distill", teacher=self.distill.distill.teacher or self.finetune.model_dir)

    def _require(self, condition: bool, stage: str, flag: str, fix: str) -> None:
        """Raises UserError("--stage.flag=value: fix") unless `condition` holds."""
        if not condition:
            raise UserError(f"--{stage}.{flag}={getattr(self, stage).to_dict()[flag]}: {fix}")

    def _same_data(self, name: str) -> bool:
        ours, theirs = getattr(self, name).data, self.finetune.data
        return (ours.dataset, ours.labelled_split) == (theirs.dataset, theirs.labelled_split)

    def _check_same_labels(self) -> None:
        theirs = self.finetune.data
        with_labels = ["supervised"] + (["distill"] if self.distill.distill.distill_alpha < 1 else [])
        for name in with_labels:
            ours = self.stages[name].data
            self._require(
                self._same_data(name),
                name,
                "dataset",
                f"takes its labels from {ours.labelled_split}, finetuning from {theirs.labelled_split} of "
                f"{theirs.dataset}; use the same.",
            )
            for flag in LABEL_SETTINGS:
                value = getattr(theirs, flag)
                fix = f"finetuning has {value}; set --{flag} for all stages, without a stage's name."
                self._require(getattr(ours, flag) == value, name, flag, fix)
        for name, stage in self.stages.items():
            fix = "all stages run on the same devices; set devices without a stage's name."
            self._require(stage.strategy == self.pretrain.strategy, name, "strategy", fix)

    def _check_same_network(self) -> None:
        pretrained, finetuned = self.pretrain.model, self.finetune.model
        for name in _NETWORK_SETTINGS:
            flag = _FLAG_BEHIND.get(name, name)
            fix = f"the network is pretrained with {getattr(pretrained, flag)}; use the same for both stages."
            self._require(getattr(finetuned, name) == getattr(pretrained, name), "finetune", flag, fix)

    def _set(self, name: str, group: str, **values: Any) -> None:
        stage = getattr(self, name)
        changed = dataclasses.replace(getattr(stage, group), **values)
        object.__setattr__(self, name, dataclasses.replace(stage, **{group: changed}))

    def to_dict(self) -> dict[str, Any]:
        """Returns the entry that marks the directory of the whole method."""
        return {"train_mode": SEMI_SUPERVISED}

    @property
    def runs(self) -> dict[str, ExperimentConfig]:
        """All runs of the command by name, in the order in which they are trained."""
        return self.stages

    @property
    def stages(self) -> dict[str, ExperimentConfig]:
        """The stages by name, in the order in which they run.

        There is no pretraining if finetuning starts from another network.
        """
        start = self.finetune.train.checkpoint
        names = TRAIN_MODES if start in (None, self.pretrain.model_dir) else TRAIN_MODES[1:]
        return {name: getattr(self, name) for name in names}
