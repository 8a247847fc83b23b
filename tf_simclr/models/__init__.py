"""Keras builders of the networks."""

from tf_simclr.models.normalization import BatchNormalization, update_moving_statistics
from tf_simclr.models.resnet import endpoint_strides
from tf_simclr.models.simclr import ForwardPass, SimCLRModel, build_simclr_model

__all__ = [
    "BatchNormalization",
    "ForwardPass",
    "SimCLRModel",
    "build_simclr_model",
    "endpoint_strides",
    "update_moving_statistics",
]
