"""Augmentation as batched pure functions of images and random draws, compilable by XLA."""

from tf_simclr.augment.views import NUM_DRAWS, EvalView, TrainView, draw_uniforms

__all__ = ["NUM_DRAWS", "EvalView", "TrainView", "draw_uniforms"]
