"""Settings of `prepare` and `preview`: work on data before training."""

import dataclasses
from typing import ClassVar

from tf_simclr.config.data import DataConfig
from tf_simclr.config.experiment import ExperimentConfig, TrainingConfig
from tf_simclr.config.setting import Settings, same_as, setting
from tf_simclr.config.tools import EmbedConfig, ExportConfig
from tf_simclr.config.training import EvaluationConfig, TrainConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrepareConfig(Settings):
    """`--mode=prepare`: a folder of images becomes record files."""

    topic: ClassVar[str] = "prepare"

    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    output: str | None = same_as(EmbedConfig, "output", fix="name a directory for the record files")
    prepare_short_side: int = setting(
        0,
        "Maximum shorter side of the images in the record files, in pixels. No image is enlarged.",
        "0 (images stay as they are) or more",
        limit=2**14,
    )
    prepare_quality: int = setting(95, "JPEG quality of images that are encoded again.", "1 to 100")
    prepare_shard_megabytes: int = setting(100, "Approximate size of a record file.", "at least 1 megabyte")
    prepare_shards: int = setting(
        0, "Record files of each split.", "0 (by --prepare_shard_megabytes) or more", limit=10**5
    )
    prepare_workers: int = setting(0, "Number of processes.", "0 (one for each core) or more", limit=1024)
    seed: int = same_as(TrainConfig, "seed")
    overwrite: bool = same_as(ExportConfig, "overwrite")

    def __post_init__(self) -> None:
        super().__post_init__()
        is_folder = self.data.dataset.startswith("folder:")
        self._require(is_folder, "dataset", "only folders of images are prepared; name one as folder:PATH.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class PreviewConfig(TrainingConfig):
    """`--mode=preview`: a picture of the first views of a training run.

    Its command line is that of the run with `--mode=preview`. Other settings of the run are ignored.
    """

    topic: ClassVar[str] = "prepare"

    evaluation: EvaluationConfig = dataclasses.field(default_factory=EvaluationConfig)
    model_dir: str | None = same_as(ExperimentConfig, "model_dir")
    output: str | None = same_as(EmbedConfig, "output", fix="name a file for the picture, such as views.png")
    preview_images: int = setting(8, "Images in the picture: the first that the run trains on.", "1 to 64")
    preview_views: int = setting(0, "Views of each image in the picture.", "0 (as many as in training) to 16")
    overwrite: bool = same_as(ExportConfig, "overwrite")

    def __post_init__(self) -> None:
        super().__post_init__()
        is_picture = str(self.output).endswith(".png")
        self._require(is_picture, "output", "the picture is a PNG; name one such as views.png.")
        is_local = "://" not in str(self.output)
        self._require(is_local, "output", "is not a path; write to a local file, then copy it.")
