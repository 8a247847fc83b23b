"""Settings of the devices and workers of a run."""

import dataclasses
from typing import ClassVar

from tf_simclr.config.setting import Settings, setting_of_command


@dataclasses.dataclass(frozen=True, kw_only=True)
class StrategyConfig(Settings):
    """Devices and workers. `use_tpu=None` uses a TPU if one is named or present."""

    topic: ClassVar[str] = "devices"

    strategy: str = setting_of_command(
        "auto",
        "Devices. auto: a TPU, several workers, all GPUs, or else the CPU. mirrored: all GPUs, else all logical CPUs.",
        ("auto", "one_device", "mirrored", "multi_worker", "tpu"),
    )
    use_tpu: bool | None = setting_of_command(
        None, "True: a TPU or an error. False: no TPU. Not given: a TPU if --tpu_name names one."
    )
    tpu_name: str | None = setting_of_command(None, "Name or address of the TPU; local on a TPU VM.")
    tpu_zone: str | None = setting_of_command(None, "Zone of the TPU.")
    gcp_project: str | None = setting_of_command(None, "Project of the TPU.")
    master: str | None = setting_of_command(None, "Address of the TPU, if --tpu_name is not given.")
    cluster: str = setting_of_command(
        "auto",
        "Source of the workers of multi_worker: the variable TF_CONFIG, or Slurm. auto: the first that names any.",
        ("auto", "tf_config", "slurm"),
    )
    cluster_port: int = setting_of_command(8470, "Port of the first worker of each node under Slurm.", "1 to 65535")
    cluster_timeout: int = setting_of_command(300, "Longest time to wait for the other workers.", "at least 1 second")

    def __post_init__(self) -> None:
        super().__post_init__()
        fix = f"contradicts --strategy={self.strategy}; leave one of them out."
        wanted = {True: ("auto", "tpu"), False: ("auto", "one_device", "mirrored", "multi_worker")}
        self._require(self.use_tpu is None or self.strategy in wanted[self.use_tpu], "use_tpu", fix)
        self._require(self.cluster == "auto" or self.strategy in ("auto", "multi_worker"), "cluster", fix)
