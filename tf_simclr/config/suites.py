"""Settings of evaluations on many data sets: transfer to other data, and robustness on other ImageNet tests."""

import dataclasses
from typing import Any, ClassVar

from tf_simclr.config.checks import check_readable_place
from tf_simclr.config.data import AugmentConfig
from tf_simclr.config.devices import StrategyConfig
from tf_simclr.config.experiment import ExperimentConfig
from tf_simclr.config.network import ModelConfig
from tf_simclr.config.setting import same_as, setting, settings_of
from tf_simclr.config.tools import RESULT_FILE, EmbedConfig, NetworkToolConfig
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
# SimCLR, appendix B.8, with the learning rate and weight decay from the middle of its search grid.
_FINETUNING: dict[str, dict[str, Any]] = {
    "optimizer": {"optimizer": "momentum", "learning_rate": 0.03, "warmup_epochs": 0.0, "weight_decay": 1e-4},
    "train": {"train_batch_size": 256, "keep_checkpoint_max": 1},
}
_FINETUNING_STEPS = 20_000
_CHECKPOINT_STEPS = 1000


@dataclasses.dataclass(frozen=True, kw_only=True)
class SuiteConfig(NetworkToolConfig):
    """Evaluation on several data sets in turn. `mode` is the flag's value."""

    topic: ClassVar[str] = "suites"
    mode: ClassVar[str]

    datasets: str | None = setting(
        None,
        "Data sets of transfer and robustness, with commas between them. transfer: names as for --dataset; the data "
        "sets of SimCLR, B.8, use the paper's splits and metrics. robustness: all of its own if not given.",
        pattern=".*[^ ,].*",
        fix="name data sets with commas between them",
    )

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the data sets, without repetitions."""
        names = (name.strip() for name in (self.datasets or "").split(","))
        return tuple(dict.fromkeys(name for name in names if name))


@dataclasses.dataclass(frozen=True, kw_only=True)
class TransferConfig(SuiteConfig):
    """`--mode=transfer`: a network on other data sets (SimCLR, arXiv 2002.05709, appendix B.8).

    `stated` names the settings that the user gave; the others follow the paper and the network that `checkpoint`
    names. `explicit` names the stated ones that are not from a recipe: an error if they have no effect.
    """

    mode: ClassVar[str] = "transfer"

    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    augment: AugmentConfig = dataclasses.field(default_factory=AugmentConfig)
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    train: TrainConfig = dataclasses.field(default_factory=TrainConfig)
    strategy: StrategyConfig = dataclasses.field(default_factory=StrategyConfig)
    datasets: str | None = same_as(
        SuiteConfig, "datasets", required=True, fix="name data sets, such as --datasets=cifar10,dtd"
    )
    transfer_protocol: str = setting(
        "linear",
        "linear: logistic regression on frozen features (SimCLR, B.8). finetuned: trains the whole network, by default "
        "for 20,000 steps of 256 images with momentum, learning rate 0.03 and weight decay 1e-4.",
        TRANSFER_PROTOCOLS,
    )
    endpoint: str = same_as(EmbedConfig, "endpoint")
    model_dir: str | None = same_as(ExperimentConfig, "model_dir")
    stated: tuple[str, ...] = ()
    explicit: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        check_readable_place("model_dir", str(self.model_dir))
        if self.transfer_protocol == "linear":
            self._check_nothing_is_trained()
            return
        fix = "--transfer_protocol=finetuned trains the whole network; leave it out, or use --ft_proj_selector."
        self._require(self.endpoint == "default", "endpoint", fix)
        self._set_unstated("optimizer", _FINETUNING["optimizer"])
        steps = {} if "train_epochs" in self.stated else {"train_steps": _FINETUNING_STEPS}
        if "checkpoint_epochs" not in self.stated:
            steps["checkpoint_steps"] = _CHECKPOINT_STEPS
        self._set_unstated("train", _FINETUNING["train"] | steps)
        self._set(train=dataclasses.replace(self.train, train_mode="finetune", lineareval_while_pretraining=False))

    def _check_nothing_is_trained(self) -> None:
        groups = (self.model, self.augment, self.optimizer, self.train, self.strategy)
        of_training = set().union(*map(settings_of, groups)) - {"checkpoint", "seed"}
        for name in self.explicit:
            fix = "has no meaning with --transfer_protocol=linear; leave it out."
            self._require(name not in of_training, name, fix)

    def _set_unstated(self, group: str, values: dict[str, Any]) -> None:
        """Sets those settings of a group that the user has not stated."""
        own = {name: value for name, value in values.items() if name not in self.stated}
        self._set(**{group: dataclasses.replace(getattr(self, group), **own)})


@dataclasses.dataclass(frozen=True, kw_only=True)
class RobustnessConfig(SuiteConfig):
    """`--mode=robustness`: an ImageNet classifier on other test sets."""

    mode: ClassVar[str] = "robustness"

    output: str | None = same_as(EmbedConfig, "output", required=False, pattern=r".*\.json", fix=RESULT_FILE)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.datasets is None:
            self._set(datasets=",".join(ROBUSTNESS_DATASETS))
        for name in self.names:
            fix = f"there is no {name}; use {', '.join(ROBUSTNESS_DATASETS)}."
            self._require(name in ROBUSTNESS_DATASETS, "datasets", fix)
