"""Settings of the losses, optimizer, length and evaluation of a training run."""

import dataclasses
import functools
import re
from typing import ClassVar

from tf_simclr.config.checks import is_handle
from tf_simclr.config.modes import TRAIN_MODES
from tf_simclr.config.setting import SEEDS, Settings, setting, setting_of_command

_BENCHMARK = ("benchmark",)
_scheduled = functools.partial(setting, unused_by=_BENCHMARK)
_saving = functools.partial(setting, free=True, unused_by=_BENCHMARK, topic="saving")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ContrastConfig(Settings):
    """The contrastive loss."""

    topic: ClassVar[str] = "pretrain"

    contrastive_loss: str = setting(
        "nt_xent", "decoupled_nt_xent suits small batches (arXiv 2110.06848).", ("nt_xent", "decoupled_nt_xent")
    )
    temperature: float = setting(
        0.1, "Divisor of the logits of the contrastive loss.", "a number above 0; the paper uses 0.1", limit=1000
    )
    hidden_norm: bool = setting(True, "L2-normalise the projections.")
    contrast_chunks: int = setting(
        1,
        "Parts of a batch that each device processes in turn, to need less memory. Needs --global_bn=False.",
        "at least 1",
    )
    memory_size: int = setting(
        0,
        "Negatives from earlier batches, made by a moving average of the network (MoCo). Costs a third more work.",
        "0 (none) or more; the paper has 65536",
        limit=2**24,
    )
    memory_momentum: float = setting(
        0.999,
        "Share of the moving average of --memory_size that a step keeps.",
        "0 or more, less than 1; the paper has 0.999",
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class DistillConfig(Settings):
    """The teacher, and the loss that makes the student agree with it."""

    topic: ClassVar[str] = "distill"

    teacher: str | None = setting(
        None,
        "The teacher: a finetuned run's directory, a checkpoint in one, or a SavedModel or module with logits_sup.",
        fix="name a run's directory, a checkpoint in one, or a SavedModel",
        inherited=False,
        unused_by=_BENCHMARK,
    )
    allow_remote_teacher: bool = setting_of_command(
        False, "Allow fetching --teacher (https://..., gs://...), which can run any code.", unused_by=_BENCHMARK
    )
    distill_alpha: float = setting(
        1.0, "Weight of the teacher's term. The labels' term has the rest.", "0 to 1 (no labels are used)"
    )
    distill_temperature: float = setting(
        1.0,
        "Divisor of the logits of teacher and student.",
        "a number above 0; the paper uses 0.1 for self-distillation, 1 for a smaller student",
        limit=1000,
    )
    distill_tau_squared: bool = setting(False, "Multiply the teacher's term by the square of the temperature.")
    distill_labeled_share: float = setting(
        0.0,
        "Share of labelled images in a batch. Their number has to be a multiple of the number of replicas.",
        "0 (their share of the data, at least one image) or more, less than 1",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require(
            self.allow_remote_teacher or not is_handle(self.teacher or ""),
            "teacher",
            "would be fetched, and a module can run any operation; if you trust it, use --allow_remote_teacher=True, "
            "or download it and name the folder.",
        )
        fix = "labels are not used with --distill_alpha=1; use a smaller --distill_alpha, or leave it out."
        self._require(self.distill_labeled_share == 0 or self.distill_alpha < 1, "distill_labeled_share", fix)


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerConfig(Settings):
    """The optimizer and its learning-rate schedule.

    `warmup_epochs` is a number of epochs, or a share of the steps of the run such as "5%".
    """

    topic: ClassVar[str] = "training"

    optimizer: str = setting(
        "lars", "lamb needs tensorflow-addons; momentum is Nesterov's.", ("lars", "lamb", "momentum", "adam")
    )
    learning_rate: float = setting(
        0.3, "Base learning rate, before --learning_rate_scaling.", "a number above 0", limit=10_000
    )
    learning_rate_scaling: str = _scheduled(
        "linear", "linear: times batch / 256. sqrt: times the square root of the batch.", ("linear", "sqrt")
    )
    warmup_epochs: float | str = _scheduled(
        10.0,
        "Length of the linear warm-up. The paper uses 5%.",
        "0 (none) or more epochs; or a share of the run up to 100%, such as 5%",
        pattern=r"\d+\.?\d*%",
    )
    weight_decay: float = setting(1e-6, "L2 weight decay.", "0 (off) or more", limit=10_000)
    momentum: float = setting(0.9, "Momentum of lars and momentum.", "0 or more, less than 1")

    def __post_init__(self) -> None:
        super().__post_init__()
        fix = "use a share of the run up to 100%, such as 5%."
        self._require((self.warmup_percent or 0) <= 100, "warmup_epochs", fix)

    @property
    def warmup_percent(self) -> float | None:
        """Length of the warm-up in percent of the run, 0 to 100; None if `warmup_epochs` is a number of epochs."""
        return float(self.warmup_epochs.rstrip("%")) if isinstance(self.warmup_epochs, str) else None


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig(Settings):
    """One stage of training."""

    topic: ClassVar[str] = "training"

    train_mode: str = setting(
        "pretrain",
        "The stage to train. supervised: the baseline on the same labels. semi_supervised: all stages.",
        TRAIN_MODES,
        unused_by=("transfer",),
        topic="run",
    )
    train_batch_size: int = _scheduled(
        512, "Images in a step, over all replicas. Each gives two views while pretraining.", "at least 1"
    )
    train_epochs: int = _scheduled(100, "Passes over the training split.", "at least 1")
    train_steps: int = _scheduled(0, "Steps to train.", "0 (then --train_epochs counts) or more", limit=10**9)
    lineareval_while_pretraining: bool = setting(
        True,
        "Train a linear probe while pretraining, without gradients into the network.",
        unused_by=("transfer",),
        topic="pretrain",
    )
    checkpoint: str | None = setting(
        None,
        "The network to start from or to use: a run's directory, a checkpoint or a SavedModel; for import, released "
        "weights.",
        fix="name a checkpoint or a directory that holds one",
        inherited=False,
        unused_by=_BENCHMARK,
        topic="run",
    )
    checkpoint_epochs: int = _saving(1, "Epochs between checkpoints.", "at least 1")
    checkpoint_steps: int = _saving(
        0, "Steps between checkpoints.", "0 (then --checkpoint_epochs counts) or more", limit=10**9
    )
    keep_checkpoint_max: int = _saving(5, "Newest checkpoints to keep.", "at least 1")
    steps_per_loop: int = _saving(
        0, "Steps in one call of the compiled loop.", "0 (10 on a CPU, 100 on accelerators) or more", topic="speed"
    )
    preemption_grace: int = _saving(
        30,
        "Time between SIGTERM and the end of the machine. Calls of the loop stay short enough to write a checkpoint.",
        "at least 1 second",
    )
    profile_steps: str | None = setting_of_command(
        None,
        "First and last step that TensorFlow's profiler traces, such as 10,20. TensorBoard shows the trace.",
        unused_by=("benchmark", "transfer"),
        topic="speed",
    )
    on_non_finite: str = _saving(
        "stop",
        "If the loss is not finite: stop, or restore the last checkpoint and skip the batches since, at most 3 times.",
        ("stop", "restore"),
    )
    jit_compile: str = setting_of_command(
        "auto",
        "Compile the training step with XLA. auto: on GPUs. TPUs always do; several CPU devices cannot.",
        ("auto", "True", "False"),
        topic="speed",
    )
    recompute: bool = setting(
        False,
        "Recompute residual blocks for their gradients: less memory, a third more work.",
        free=True,
        topic="speed",
    )
    seed: int = setting(0, "Seed of the order of the images, the augmentation and the initial weights.", SEEDS)

    def __post_init__(self) -> None:
        super().__post_init__()
        fix = "the contrastive loss needs at least 2 images a batch."
        self._require(self.train_batch_size >= 2 or self.train_mode != "pretrain", "train_batch_size", fix)
        fix = "use the first and the last step, such as 10,20; the first is at least 2, because step 1 compiles."
        self._require(self.profile_steps is None or self.profile_range is not None, "profile_steps", fix)

    @property
    def is_contrastive(self) -> bool:
        """True if two views of each image are compared: pretraining, with its loss, jitter and blur."""
        return self.train_mode == "pretrain"

    @property
    def num_views(self) -> int:
        """Random views of each image in a batch."""
        return 2 if self.is_contrastive else 1

    @property
    def starts_from_checkpoint(self) -> bool:
        """True if a pretrained network is needed."""
        return self.train_mode == "finetune"

    @property
    def has_teacher(self) -> bool:
        """True if a student follows a teacher."""
        return self.train_mode == "distill"

    @property
    def profile_range(self) -> tuple[int, int] | None:
        """The first and the last step to profile; None if `profile_steps` does not name two valid steps."""
        match = re.fullmatch(r"\s*(\d{1,10})\s*,\s*(\d{1,10})\s*", self.profile_steps or "")
        first, last = map(int, match.groups()) if match else (0, 0)
        return (first, last) if 2 <= first <= last else None


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationConfig(Settings):
    """Evaluation on the held-out split."""

    topic: ClassVar[str] = "evaluation"

    eval_batch_size: int = setting(256, "Images in a step of evaluation, over all replicas.", "at least 1", free=True)
    eval_steps: int = setting(0, "Batches to evaluate.", "0 (the whole split) or more", limit=10**9, free=True)
    eval_name: str | None = setting_of_command(
        None,
        "Name of this evaluation, used in the names of its result files.",
        pattern=r"[\w.-]+",
        fix="becomes a part of file names; use letters, digits, -, _ and dots",
    )
    eval_timeout: int = setting_of_command(
        7200, "Maximum wait of --mode=eval for the next checkpoint.", "0 (no limit) or more seconds", limit=10**9
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        fix = "names the result files of that mode; use another name."
        self._require(self.eval_name not in ("linear_eval", "knn_eval", "robustness"), "eval_name", fix)
