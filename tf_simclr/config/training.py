"""Losses, optimizer, length and evaluation of a training run."""

import dataclasses
import re

from tf_simclr.config.checks import check, check_at_most, check_choice, check_finite, is_handle

TRAIN_MODES = ("pretrain", "finetune", "distill", "supervised")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ContrastConfig:
    """The contrastive loss."""

    contrastive_loss: str = "nt_xent"
    temperature: float = 0.1
    hidden_norm: bool = True
    contrast_chunks: int = 1
    memory_size: int = 0
    memory_momentum: float = 0.999

    def __post_init__(self):
        check_finite(self)
        check_at_most(self, contrast_chunks=2**20, memory_size=2**24, temperature=1000)
        check(
            self.contrast_chunks >= 1,
            "contrast_chunks",
            self.contrast_chunks,
            "the number of parts that a batch is worked off in; use 1 (all at once) or more.",
        )
        check(
            self.memory_size >= 0,
            "memory_size",
            self.memory_size,
            "the number of negatives that are kept of earlier batches; use 0 (none) or more: the paper has 65536.",
        )
        check(
            0 <= self.memory_momentum < 1,
            "memory_momentum",
            self.memory_momentum,
            "the share of the averaged weights that a step keeps; use 0 up to, but not, 1: the paper has 0.999.",
        )
        check_choice("contrastive_loss", self.contrastive_loss, ("nt_xent", "decoupled_nt_xent"))
        check(
            self.temperature > 0,
            "temperature",
            self.temperature,
            "divides the logits and must be greater than 0; the paper uses 0.1.",
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class DistillConfig:
    """Distillation: the teacher, and the loss that makes the student agree with it."""

    teacher: str | None = None
    allow_remote_teacher: bool = False
    distill_alpha: float = 1.0
    distill_temperature: float = 1.0
    distill_tau_squared: bool = False
    distill_labeled_share: float = 0.0

    def __post_init__(self):
        check_finite(self)
        check_at_most(self, distill_temperature=1000)
        check(self.teacher != "", "teacher", "", "name a run's directory, a checkpoint in one, or a SavedModel.")
        check(
            self.allow_remote_teacher or not is_handle(self.teacher or ""),
            "teacher",
            self.teacher,
            "would be fetched, and a module can run whatever operations it likes; if you trust it, use "
            "--allow_remote_teacher=True, or download it and name the folder.",
        )
        check(
            0 <= self.distill_alpha <= 1,
            "distill_alpha",
            self.distill_alpha,
            "the weight of the teacher beside the labels; use 0 to 1 (no labels).",
        )
        check(
            self.distill_temperature > 0,
            "distill_temperature",
            self.distill_temperature,
            "divides the logits of teacher and student; use a number above 0: the paper uses 0.1 for "
            "self-distillation, 1 for a smaller student.",
        )
        check(
            0 <= self.distill_labeled_share < 1,
            "distill_labeled_share",
            self.distill_labeled_share,
            "the share of a batch that is labelled images; use 0 (their share of the data) up to, but not, 1.",
        )
        check(
            self.distill_labeled_share == 0 or self.distill_alpha < 1,
            "distill_labeled_share",
            self.distill_labeled_share,
            "labels are not used with --distill_alpha=1; use a smaller --distill_alpha, or leave it out.",
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """The optimizer and its learning-rate schedule.

    `warmup_epochs` is a number of epochs, or text such as "5%": a share of the steps of the run.
    """

    optimizer: str = "lars"
    learning_rate: float = 0.3
    learning_rate_scaling: str = "linear"
    warmup_epochs: float | str = 10.0
    weight_decay: float = 1e-6
    momentum: float = 0.9

    def __post_init__(self):
        check_finite(self)
        check_at_most(self, learning_rate=10_000, warmup_epochs=10**6, weight_decay=10_000)
        check_choice("optimizer", self.optimizer, ("lars", "lamb", "momentum", "adam"))
        check_choice("learning_rate_scaling", self.learning_rate_scaling, ("linear", "sqrt"))
        check(self.learning_rate > 0, "learning_rate", self.learning_rate, "must be greater than 0.")
        epochs, percent = self.warmup_epochs, self.warmup_percent
        check(
            percent <= 100 if percent is not None else not isinstance(epochs, str) and epochs >= 0,
            "warmup_epochs",
            epochs,
            "use 0 (none) or more epochs, or a share of the run up to 100%, such as 5%.",
        )
        check(self.weight_decay >= 0, "weight_decay", self.weight_decay, "use 0 (off) or more.")
        check(0 <= self.momentum < 1, "momentum", self.momentum, "use a number from 0 up to, but not, 1.")

    @property
    def warmup_percent(self) -> float | None:
        """The share of the run that is warm-up, 0 to 100; None if `warmup_epochs` is a number of epochs."""
        match = re.fullmatch(r"(\d+\.?\d*)%", str(self.warmup_epochs))
        return float(match[1]) if match else None


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One stage of training."""

    train_mode: str = "pretrain"
    train_batch_size: int = 512
    train_epochs: int = 100
    train_steps: int = 0
    lineareval_while_pretraining: bool = True
    checkpoint: str | None = None
    checkpoint_epochs: int = 1
    checkpoint_steps: int = 0
    keep_checkpoint_max: int = 5
    steps_per_loop: int = 0
    preemption_grace: int = 30
    profile_steps: str | None = None
    on_non_finite: str = "stop"
    jit_compile: str = "auto"
    recompute: bool = False
    seed: int = 0

    def __post_init__(self):
        check_choice("train_mode", self.train_mode, TRAIN_MODES)
        check_at_most(self, train_batch_size=2**20, keep_checkpoint_max=10**6, preemption_grace=10**6)
        check_at_most(self, train_epochs=10**6, checkpoint_epochs=10**6)
        check_at_most(self, train_steps=10**9, checkpoint_steps=10**9, steps_per_loop=10**9)
        check(self.train_batch_size >= 1, "train_batch_size", self.train_batch_size, "use at least 1.")
        check(
            self.train_batch_size >= 2 or self.train_mode != "pretrain",
            "train_batch_size",
            self.train_batch_size,
            "the contrastive loss needs at least 2 images a batch.",
        )
        for flag in ("train_epochs", "checkpoint_epochs", "keep_checkpoint_max"):
            check(getattr(self, flag) >= 1, flag, getattr(self, flag), "use at least 1.")
        for flag in ("train_steps", "checkpoint_steps"):
            check(
                getattr(self, flag) >= 0,
                flag,
                getattr(self, flag),
                f"use 0 (then --{flag.replace('steps', 'epochs')} counts) or more.",
            )
        check(self.steps_per_loop >= 0, "steps_per_loop", self.steps_per_loop, "use 0 (automatic) or more.")
        check(
            self.preemption_grace >= 1,
            "preemption_grace",
            self.preemption_grace,
            "the seconds between SIGTERM and the end of the machine; use at least 1.",
        )
        check_choice("on_non_finite", self.on_non_finite, ("stop", "restore"))
        check_choice("jit_compile", self.jit_compile, ("auto", "True", "False"))
        check(0 <= self.seed < 2**31, "seed", self.seed, "use a whole number from 0 to 2147483647.")
        check(self.checkpoint != "", "checkpoint", "", "name a checkpoint or a directory that holds one.")
        check(
            self.profile_steps is None or self.profile_range is not None,
            "profile_steps",
            self.profile_steps,
            "use the first and the last step, such as 10,20; the first is at least 2, as step 1 compiles.",
        )

    @property
    def profile_range(self) -> tuple[int, int] | None:
        """The first and the last step to profile; None where there is none, or no two such numbers are given."""
        match = re.fullmatch(r"\s*(\d{1,10})\s*,\s*(\d{1,10})\s*", self.profile_steps or "")
        first, last = map(int, match.groups()) if match else (0, 0)
        return (first, last) if 2 <= first <= last else None


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """Evaluation on the held-out split."""

    eval_batch_size: int = 256
    eval_steps: int = 0
    eval_name: str | None = None
    eval_timeout: int = 7200

    def __post_init__(self):
        check(self.eval_timeout >= 0, "eval_timeout", self.eval_timeout, "use 0 (no limit) or more seconds.")
        check_at_most(self, eval_batch_size=2**20, eval_steps=10**9, eval_timeout=10**9)
        check(self.eval_batch_size >= 1, "eval_batch_size", self.eval_batch_size, "use at least 1.")
        check(self.eval_steps >= 0, "eval_steps", self.eval_steps, "use 0 (the whole split) or more.")
        check(
            self.eval_name is None or re.fullmatch(r"[\w.-]+", self.eval_name) is not None,
            "eval_name",
            self.eval_name,
            "becomes a part of file names; use letters, digits, -, _ and dots.",
        )
        check(
            self.eval_name not in ("linear_eval", "knn_eval", "robustness"),
            "eval_name",
            self.eval_name,
            "names the result files of that mode; use another name.",
        )
