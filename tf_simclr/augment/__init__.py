"""Augmentation: batched, compilable by XLA, and a pure function of images and random draws."""

from tf_simclr.augment.views import NUM_DRAWS, EvalView, TrainView, draw_uniforms

__all__ = ["NUM_DRAWS", "EvalView", "TrainView", "draw_uniforms"]
