"""Views and batches of a run, from its configuration and its images."""

import dataclasses
import os

import tensorflow as tf

from tf_simclr.augment import TrainView
from tf_simclr.config import ExperimentConfig
from tf_simclr.data import BatchPlan, DataService, Source, mix_labelled, train_dataset
from tf_simclr.training.assembly import Assembly

# Keeps the random numbers of the labelled images apart from those of the unlabelled ones.
_LABELLED_SEED = 2**30


def training_view(config: ExperimentConfig, *, on_device: bool = False) -> TrainView:
    """Returns the random view of a run's training images.

    Args:
        config: of the run.
        on_device: whether the training step makes the views.
    """
    augment, pretraining = config.augment, config.train.is_contrastive
    return TrainView(
        image_size=config.model.image_size,
        crop_min_area=augment.crop_min_area,
        use_flip=augment.use_flip,
        random_rotation=augment.random_rotation,
        # Labels and teachers speak of what the image shows: its colours and sharpness stay.
        color_jitter_strength=augment.color_jitter_strength if pretraining else 0.0,
        use_blur=augment.use_blur and pretraining,
        on_device=on_device,
    )


def training_batches(
    config: ExperimentConfig,
    assembly: Assembly,
    rows: BatchPlan,
    *,
    num_views: int,
    first_step: int,
    use_service: bool = False,
    on_device: bool = False,
) -> tf.data.Dataset:
    """Returns the endless batches of a run from step `first_step` on; see `data.train_dataset`.

    Args:
        config: of the run.
        assembly: of the run.
        rows: those of a global batch that this worker makes.
        num_views: of each image.
        first_step: number of the first batch.
        use_service: whether the batches come from `--data_service`, if that is given.
        on_device: whether the training step makes the views.
    """
    view = training_view(config, on_device=on_device)
    address = config.data.data_service if use_service else None

    def batches(source: Source, batch_size: int, seed: int) -> tf.data.Dataset:
        # The workers of a run, and no other runs, share its jobs.
        directory = str(config.model_dir)
        place = directory if "://" in directory else os.path.abspath(directory)
        job_name = f"{place}, {source.name}, seed {seed}, step {first_step}" + on_device * ", made on the device"
        return train_dataset(
            source,
            view,
            plan=dataclasses.replace(rows, global_batch_size=batch_size),
            seed=seed,
            num_views=num_views,
            first_step=first_step,
            service=DataService(address, job_name) if address else None,
        )

    num_labelled, seed = assembly.num_labelled, config.train.seed
    if assembly.labelled is None:
        return batches(assembly.source, config.train.train_batch_size, seed)
    unlabelled = batches(assembly.source, config.train.train_batch_size - num_labelled, seed)
    labelled = batches(assembly.labelled, num_labelled, (seed + _LABELLED_SEED) % 2**31)
    return mix_labelled(unlabelled, labelled)
