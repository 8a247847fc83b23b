"""Keras builders of the networks."""

from tf_simclr.models.normalization import BatchNormalization, update_moving_statistics
from tf_simclr.models.simclr import ForwardPass, SimCLRModel, build_simclr_model

__all__ = [
    "BatchNormalization",
    "ForwardPass",
    "SimCLRModel",
    "build_simclr_model",
    "update_moving_statistics",
]
