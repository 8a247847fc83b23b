"""Random views for training, and the fixed view for evaluation.

A view is a pure function of images and uniform draws. `draw_uniforms` makes the draws of an example only from
(seed, view, position), so any row of any batch can be made again anywhere.

The images of a batch, [batch, height, width, channels], have one size, known when traced; a single image, [height,
width, channels], may have any size. Both are uint8, or float in [0, 1], and have 1 or 3 channels; anything else is a
ValueError. Draws are float32 [batch, NUM_DRAWS], or [NUM_DRAWS] for a single image.
"""

import dataclasses
import itertools

import tensorflow as tf

from tf_simclr.augment import blur, color, spatial
from tf_simclr.augment.choices import Choice, apply_choices

_DRAWS_PER_COUNTER = 4
_PHILOX = 1
_MAX_KEY_HALF = 2**32

# Draws of the crop, the flip, the rotation, the jitter, the grey-scale and the blur.
_COUNTS = (spatial.NUM_CROP_DRAWS, 1, 1, color.NUM_JITTER_DRAWS, 1, 2)
_STOPS = tuple(itertools.accumulate(_COUNTS))
_CROP, _FLIP, _ROTATION, _JITTER, _GREY, _BLUR = map(slice, (0, *_STOPS[:-1]), _STOPS)
NUM_DRAWS = -(-_STOPS[-1] // _DRAWS_PER_COUNTER) * _DRAWS_PER_COUNTER
"""Number of uniform draws for one view of one example (a multiple of 4, so rows start at whole counters)."""


def draw_uniforms(seed: int, view: int, first_position: int | tf.Tensor, num_rows: int) -> tf.Tensor:
    """Draws the random numbers of consecutive examples from a counter (Philox), without any state.

    The row of an example depends only on (seed, view) and its position, not on the batch, replica or step.

    Args:
        seed: Seed of the run, in [0, 2**32).
        view: Number of the view, in [0, 2**32).
        first_position: Global position of the first example, an int or an int64 scalar tensor, at least 0.
        num_rows: Number of examples.

    Returns:
        float32 [num_rows, NUM_DRAWS], uniform in [0, 1).

    Raises:
        ValueError: If seed or view is out of range.
    """
    for name, value in (("seed", seed), ("view", view)):
        if not 0 <= value < _MAX_KEY_HALF:
            raise ValueError(f"{name} must be in [0, 2**32). Received: {name}={value}.")
    first_counter = tf.cast(first_position, tf.int64) * (NUM_DRAWS // _DRAWS_PER_COUNTER)
    bits = tf.raw_ops.StatelessRandomUniformFullIntV2(
        shape=[num_rows, NUM_DRAWS],
        key=tf.constant([seed + view * _MAX_KEY_HALF], tf.uint64),
        counter=tf.stack([tf.cast(first_counter, tf.uint64), tf.constant(0, tf.uint64)]),
        alg=_PHILOX,
        dtype=tf.uint32,
    )
    # TensorFlow's kernels and XLA make different floats from the same bits, so the op for floats is not used.
    return tf.cast(tf.bitwise.right_shift(bits, tf.constant(8, tf.uint32)), tf.float32) * 2.0**-24


def _checked(images: tf.Tensor, *, is_batch: bool) -> tf.Tensor:
    images = tf.convert_to_tensor(images)
    if images.shape[-1] not in (1, 3):
        raise ValueError(
            f"Images must have 1 (grey-scale) or 3 (RGB) channels. Received: shape={tuple(images.shape)}; "
            "drop an alpha channel with images[..., :3], or set the shape if it is unknown."
        )
    if is_batch and (images.shape.rank != 4 or None in images.shape[1:]):
        raise ValueError(
            "A batch must be [batch, height, width, channels] with one known size. "
            f"Received: shape={tuple(images.shape)}; use crop_image for images of several sizes."
        )
    return images


def _scale(images: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    if dtype == tf.uint8:
        return tf.cast(images, tf.float32) / 255
    if dtype.is_floating:
        return tf.cast(images, tf.float32)
    raise ValueError(f"Images must be uint8, or float in [0, 1]. Received: dtype={dtype.name}.")


def _to_images(planes: tf.Tensor) -> tf.Tensor:
    return _to_rgb(tf.transpose(planes, [0, 2, 3, 1]))


def _to_rgb(images: tf.Tensor) -> tf.Tensor:
    return images if images.shape[-1] == 3 else tf.repeat(images, 3, axis=-1)


def _resize_crop(image: tf.Tensor, box: tf.Tensor, size: int) -> tf.Tensor:
    top, left, height, width = tf.unstack(box)
    # Cropping bytes before they become floats saves most of the work on large files.
    crop = image[top : top + height, left : left + width]
    return _to_rgb(_scale(tf.image.resize(crop, [size, size], method="bicubic"), image.dtype))


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainView:
    """Random view for training: crop and flip, then optional rotation, colour jitter, grey and blur.

    SimCLR (arXiv 2002.05709, appendix A) as in the authors' TF2 code, except that every image of a batch
    draws its own blur width, and that rotation is an addition.

    Attributes:
        image_size: Side of the view in pixels.
        crop_min_area: Smallest share of the image that a crop covers, in (0, 1]; in effect at least 0.10.
        use_flip: Whether half of the views are flipped left to right.
        random_rotation: Largest angle in degrees, 0 (off) to 180.
        color_jitter_strength: Strength of the jitter; 0 switches off jitter and grey-scale.
        use_blur: Whether half of the views are blurred.
        on_device: Whether the training step makes the views, instead of the input pipeline.
    """

    image_size: int
    crop_min_area: float = 0.08
    use_flip: bool = True
    random_rotation: float = 0.0
    color_jitter_strength: float = 0.0
    use_blur: bool = False
    on_device: bool = False

    def __call__(self, images: tf.Tensor, draws: tf.Tensor) -> tf.Tensor:
        """Returns one random view of each image of a batch, float32 [batch, image_size, image_size, 3] in [0, 1]."""
        return self.distort(self.crop_batch(images, draws), draws)

    def crop_batch(self, images: tf.Tensor, draws: tf.Tensor) -> tf.Tensor:
        """Crops, resizes and flips a batch.

        Returns:
            float32 [batch, image_size, image_size, 3]; `distort` clips it to [0, 1].
        """
        images = _checked(images, is_batch=True)
        _, height, width, _ = images.shape
        boxes = spatial.sample_crop_boxes(draws[:, _CROP], height, width, self.crop_min_area)
        floats = _scale(images, images.dtype)
        planes = spatial.crop_and_resize(floats, boxes, self.image_size, flip=self._flip(draws), precise=self.on_device)
        return _to_images(planes)

    def crop_image(self, image: tf.Tensor, draws: tf.Tensor) -> tf.Tensor:
        """Crops, resizes and flips one image, for images that are decoded one by one.

        Equal to `crop_batch` up to the resize operation's positions, which TensorFlow rounds to 1/1024 pixel.

        Returns:
            float32 [image_size, image_size, 3]; `distort` clips it to [0, 1].
        """
        image = _checked(image, is_batch=False)
        draws = draws[tf.newaxis]
        height, width = tf.unstack(tf.shape(image)[:2])
        boxes = spatial.sample_crop_boxes(draws[:, _CROP], height, width, self.crop_min_area)
        view = _resize_crop(image, boxes[0], self.image_size)
        flip = self._flip(draws)
        return view if flip is None else tf.cond(flip[0], lambda: tf.reverse(view, [1]), lambda: view)

    def distort(self, images: tf.Tensor, draws: tf.Tensor) -> tf.Tensor:
        """Applies rotation, colour jitter, grey and blur to crops, then clips.

        Args:
            images: float32 [batch, image_size, image_size, 3], nominally in [0, 1].
            draws: The draws of the crops.

        Returns:
            float32 [batch, image_size, image_size, 3] in [0, 1].
        """
        planes = tf.transpose(images, [0, 3, 1, 2])
        if self.random_rotation > 0:
            planes = spatial.rotate(planes, self.random_rotation * (2 * draws[:, _ROTATION][:, 0] - 1))
        choices: list[Choice] = []
        if self.color_jitter_strength > 0:
            choices += color.jitter_choices(draws[:, _JITTER], self.color_jitter_strength)
            choices.append(color.grey_choice(draws[:, _GREY][:, 0]))
        if self.use_blur and blur.blur_radius(self.image_size):
            choices.append(blur.blur_choice(draws[:, _BLUR]))
        return _to_images(tf.clip_by_value(apply_choices(planes, choices), 0.0, 1.0))

    def _flip(self, draws: tf.Tensor) -> tf.Tensor | None:
        return draws[:, _FLIP][:, 0] < 0.5 if self.use_flip else None


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvalView:
    """Fixed view for evaluation: a central square, resized bicubically.

    As in the authors' code, the square is 0.875 of the shorter side above 32 pixels, otherwise all of it. Unlike
    theirs, images up to 32 pixels are resized too, so the result always has the requested size.

    Attributes:
        image_size: Side of the view in pixels.
        whole_side: Whether the square takes all of the shorter side at every size.
    """

    image_size: int
    whole_side: bool = False

    @property
    def crop_proportion(self) -> float:
        """Share of the shorter side that the central square takes."""
        return 0.875 if self.image_size > 32 and not self.whole_side else 1.0

    def __call__(self, images: tf.Tensor) -> tf.Tensor:
        """Returns the view of each image of a batch, float32 [batch, image_size, image_size, 3] in [0, 1]."""
        images = _checked(images, is_batch=True)
        _, height, width, _ = images.shape
        box = spatial.center_crop_box(height, width, self.crop_proportion)
        planes = spatial.crop_and_resize(_scale(images, images.dtype), box[tf.newaxis], self.image_size)
        return _to_images(tf.clip_by_value(planes, 0.0, 1.0))

    def crop_image(self, image: tf.Tensor) -> tf.Tensor:
        """Returns the view of one image, float32 [image_size, image_size, 3] in [0, 1]."""
        image = _checked(image, is_batch=False)
        height, width = tf.unstack(tf.shape(image)[:2])
        box = spatial.center_crop_box(height, width, self.crop_proportion)
        return tf.clip_by_value(_resize_crop(image, box, self.image_size), 0.0, 1.0)
