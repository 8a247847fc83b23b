"""The devices and the workers of a run."""

import dataclasses

from tf_simclr.config.checks import check, check_at_most, check_choice


@dataclasses.dataclass(frozen=True, kw_only=True)
class StrategyConfig:
    """Devices and workers. `use_tpu=None` means a TPU if one is named or here."""

    strategy: str = "auto"
    use_tpu: bool | None = None
    tpu_name: str | None = None
    tpu_zone: str | None = None
    gcp_project: str | None = None
    master: str | None = None
    cluster: str = "auto"
    cluster_port: int = 8470
    cluster_timeout: int = 300

    def __post_init__(self):
        choices = ("auto", "one_device", "mirrored", "multi_worker", "tpu")
        check_choice("strategy", self.strategy, choices)
        check(
            not (self.use_tpu and self.strategy not in ("auto", "tpu")),
            "use_tpu",
            self.use_tpu,
            f"contradicts --strategy={self.strategy}; leave one of them out.",
        )
        check(
            not (self.use_tpu is False and self.strategy == "tpu"),
            "use_tpu",
            self.use_tpu,
            "contradicts --strategy=tpu; leave one of them out.",
        )
        self._check_cluster()

    def _check_cluster(self):
        check_choice("cluster", self.cluster, ("auto", "tf_config", "slurm"))
        check(
            self.cluster == "auto" or self.strategy in ("auto", "multi_worker"),
            "cluster",
            self.cluster,
            f"contradicts --strategy={self.strategy}; leave one of them out.",
        )
        check_at_most(self, cluster_timeout=10**6)
        check(0 < self.cluster_port < 2**16, "cluster_port", self.cluster_port, "use 1 to 65535.")
        check(
            self.cluster_timeout >= 1,
            "cluster_timeout",
            self.cluster_timeout,
            "the seconds to wait for the other workers; use at least 1.",
        )
