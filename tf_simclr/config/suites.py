"""Evaluations over many data sets: transfer to other data, and robustness on other tests of ImageNet."""

import dataclasses
from typing import Any, ClassVar

from tf_simclr.config.checks import (
    WHICH_NETWORK,
    check,
    check_at_most,
    check_choice,
    check_given,
    check_readable_place,
)
from tf_simclr.config.data import AugmentConfig, DataConfig
from tf_simclr.config.devices import StrategyConfig
from tf_simclr.config.network import ModelConfig
from tf_simclr.config.training import OptimizerConfig, TrainConfig

TRANSFER_PROTOCOLS = ("linear", "finetuned")
ROBUSTNESS_DATASETS = (
    "imagenet_v2/matched-frequency",
    "imagenet_v2/threshold-0.7",
    "imagenet_v2/topimages",
    "imagenet_a",
    "imagenet_r",
    "imagenet2012_real",
    "imagenet_sketch",
)
# What a data set of the suites says for itself.
_OF_A_DATASET = (
    "dataset",
    "train_split",
    "eval_split",
    "label_fraction",
    "labels_per_class",
    "label_seed",
    "data_service",
)
# SimCLR, appendix B.8; learning rate and weight decay are searched for there, these are of the middle of its grid.
_FINETUNING = {
    "optimizer": {"optimizer": "momentum", "learning_rate": 0.03, "warmup_epochs": 0.0, "weight_decay": 1e-4},
    "train": {"train_batch_size": 256, "keep_checkpoint_max": 1},
}
_FINETUNING_STEPS = 20_000
_CHECKPOINT_STEPS = 1000


@dataclasses.dataclass(frozen=True, kw_only=True)
class SuiteConfig:
    """What is evaluated on one data set after the other.

    `mode` is the flag's value, `unused` are settings that are of no use here.
    """

    mode: ClassVar[str]
    unused: ClassVar[tuple[str, ...]] = _OF_A_DATASET

    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    checkpoint: str | None = None
    datasets: str | None = None
    eval_batch_size: int = 256
    overwrite: bool = False

    def __post_init__(self):
        check_given("checkpoint", self.checkpoint, WHICH_NETWORK)
        check(
            self.datasets is None or bool(self.names),
            "datasets",
            self.datasets,
            "name data sets with commas between them.",
        )
        check_at_most(self, eval_batch_size=2**20)
        check(self.eval_batch_size >= 1, "eval_batch_size", self.eval_batch_size, "use at least 1.")

    @property
    def names(self) -> tuple[str, ...]:
        """The data sets by name, each once."""
        names = (name.strip() for name in (self.datasets or "").split(","))
        return tuple(dict.fromkeys(name for name in names if name))


@dataclasses.dataclass(frozen=True, kw_only=True)
class TransferConfig(SuiteConfig):
    """`--mode=transfer`: how well a network serves other data sets; SimCLR (arXiv 2002.05709), appendix B.8.

    `stated` names the settings that the user gave; the others are those of the paper, and of the network that
    `checkpoint` names. `explicit` are those of them that have to be of use, and are not of a recipe.
    """

    mode: ClassVar[str] = "transfer"
    unused: ClassVar[tuple[str, ...]] = (
        *_OF_A_DATASET,
        "train_mode",
        "lineareval_while_pretraining",
        "profile_steps",
        "color_jitter_strength",
        "use_blur",
        "zero_init_logits_layer",
    )

    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    augment: AugmentConfig = dataclasses.field(default_factory=AugmentConfig)
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    train: TrainConfig = dataclasses.field(default_factory=TrainConfig)
    strategy: StrategyConfig = dataclasses.field(default_factory=StrategyConfig)
    transfer_protocol: str = "linear"
    endpoint: str = "default"
    model_dir: str | None = None
    stated: tuple[str, ...] = ()
    explicit: tuple[str, ...] = ()

    def __post_init__(self):
        check_given("datasets", self.datasets, "name data sets, such as --datasets=cifar10,dtd.")
        super().__post_init__()
        check_choice("transfer_protocol", self.transfer_protocol, TRANSFER_PROTOCOLS)
        check(bool(self.endpoint), "endpoint", self.endpoint, "name an output, such as default.")
        check(self.model_dir != "", "model_dir", "", "name a directory, or leave it out.")
        check_readable_place("model_dir", str(self.model_dir))
        if self.transfer_protocol == "linear":
            self._check_nothing_is_trained()
            return
        check(
            self.endpoint == "default",
            "endpoint",
            self.endpoint,
            "--transfer_protocol=finetuned trains the whole network; leave it out, or use --ft_proj_selector.",
        )
        self._set("optimizer", _FINETUNING["optimizer"])
        steps = {} if "train_epochs" in self.stated else {"train_steps": _FINETUNING_STEPS}
        if "checkpoint_epochs" not in self.stated:
            steps["checkpoint_steps"] = _CHECKPOINT_STEPS
        self._set("train", _FINETUNING["train"] | steps)
        own = {"train_mode": "finetune", "lineareval_while_pretraining": False}
        object.__setattr__(self, "train", dataclasses.replace(self.train, **own))

    def _check_nothing_is_trained(self) -> None:
        groups = (self.model, self.augment, self.optimizer, self.train, self.strategy)
        of_training = {field.name for group in groups for field in dataclasses.fields(group)}
        for name in self.explicit:
            check(
                name not in of_training - {"checkpoint", "seed"},
                name,
                next((getattr(group, name) for group in groups if hasattr(group, name)), None),
                "has no meaning with --transfer_protocol=linear; leave it out.",
            )

    def _set(self, group: str, values: dict[str, Any]) -> None:
        """Gives the settings of a group that the user has not stated their values."""
        own = {name: value for name, value in values.items() if name not in self.stated}
        object.__setattr__(self, group, dataclasses.replace(getattr(self, group), **own))


@dataclasses.dataclass(frozen=True, kw_only=True)
class RobustnessConfig(SuiteConfig):
    """`--mode=robustness`: a classifier of ImageNet on other tests than its own."""

    mode: ClassVar[str] = "robustness"
    unused: ClassVar[tuple[str, ...]] = (*_OF_A_DATASET, "cache_dataset")

    output: str | None = None

    def __post_init__(self):
        super().__post_init__()
        if self.datasets is None:
            object.__setattr__(self, "datasets", ",".join(ROBUSTNESS_DATASETS))
        for name in self.names:
            check(
                name in ROBUSTNESS_DATASETS,
                "datasets",
                self.datasets,
                f"{name} is none of {', '.join(ROBUSTNESS_DATASETS)}.",
            )
        check(
            self.output is None or self.output.endswith(".json"),
            "output",
            self.output,
            "the result is a file of JSON; name one such as result.json, or leave it out: it goes to the "
            "directory of the run.",
        )
