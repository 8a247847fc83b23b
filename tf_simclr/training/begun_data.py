"""The data that a run began with, compared with the images of today."""

import logging

from tf_simclr.config import ExperimentConfig, UserError, check
from tf_simclr.data import Source
from tf_simclr.runs.data import RunData, describe_change, read_class_names, read_run_data
from tf_simclr.runs.directory import check_directory
from tf_simclr.training.assembly import Assembly
from tf_simclr.training.teacher import network_class_names

_LOG = logging.getLogger("tf_simclr")


def read_begun(config: ExperimentConfig) -> RunData | None:
    """Returns the data that the run in `model_dir` began with; None if it has not begun or does not know it.

    Raises:
        UserError: the directory holds a run with other settings, or a file is damaged.
    """
    return read_run_data(str(config.model_dir)) if check_directory(config) else None


class BegunData:
    """The data that a run began with, according to its directory, and the training images of today.

    Args:
        config: of the run.
        begun: from `read_begun`.
        assembly: of the run.

    Raises:
        UserError: the classes of the images are no longer those of the network.
    """

    def __init__(self, config: ExperimentConfig, begun: RunData | None, assembly: Assembly):
        self._config = config
        self._begun = begun
        self._assembly = assembly
        if begun is not None and assembly.images is not None:
            change = describe_change(RunData(begun.class_names), RunData(assembly.images.class_names))
            if change:
                raise self._other_images(change)

    @property
    def num_images(self) -> int:
        """Images of an epoch. Steps and learning rates stay those that the run began with."""
        return (self._begun and self._begun.num_images) or self._assembly.source.num_examples

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Names of the classes that the run began with, or else of its images; None if they are not known."""
        if self._begun is not None and self._begun.class_names is not None:
            return self._begun.class_names
        images = self._assembly.images
        return None if images is None else images.class_names

    def class_names_of_network(self) -> tuple[str, ...] | None:
        """Returns `class_names`, or else those of the teacher that training follows; None if neither is known."""
        return self._names_now() if self.class_names is None and self._config.mode != "eval" else self.class_names

    def check(self, step: int, *, total_steps: int) -> None:
        """Compares the images with those that the run in the directory began with, which another process may have.

        Args:
            step: to go on from.
            total_steps: last step of the run. A trained run goes on with other images, with a line for the user.

        Raises:
            UserError: training would go on with other settings, or with other images in an order of their own.
        """
        begun, is_trained = read_begun(self._config), step >= total_steps
        if begun is None:
            return
        # The teacher of a finished run may be gone.
        names = self._assembly.source.class_names if is_trained else self._names_now()
        change = describe_change(begun, self._data_now(names))
        # Steps and numbers of classes were made for the beginning that was read before.
        if change and (begun != self._begun or not is_trained):
            raise self._other_images(change)
        if change:
            _LOG.info(
                "The training images of %s have changed since (%s): to learn from those of now, use another "
                "--model_dir.",
                self._config.model_dir,
                change,
            )
        self._begun = begun

    def to_remember(self, num_classes: int | None) -> RunData:
        """Returns what the directory of the run remembers of its data: that of its beginning.

        Args:
            num_classes: of the network's classifier; None if there is none.
        """
        if self._begun is not None and self._begun.fingerprint is not None:
            return self._begun
        return self._data_now(self._names_now(), num_classes)

    def check_begun_since(self, source: Source | None) -> None:
        """Checks the settings and classes of a run that may have begun after its evaluation.

        Args:
            source: evaluated on.

        Raises:
            UserError: they are others than this evaluation assumed.
        """
        directory = str(self._config.model_dir)
        check_directory(self._config)
        names = read_class_names(directory)
        if self._begun is None and names is not None and source is not None and source.class_names:
            check(
                tuple(names) == source.class_names,
                "model_dir",
                directory,
                "the run there began after this evaluation, with other classes; start the evaluation again.",
            )

    def _data_now(self, class_names: tuple[str, ...] | None, num_classes: int | None = None) -> RunData:
        source = self._assembly.source
        return RunData(class_names, num_classes, source.num_examples, source.fingerprint())

    def _names_now(self) -> tuple[str, ...] | None:
        names, teacher = self._assembly.source.class_names, self._config.distill.teacher
        if names is None and teacher is not None:
            theirs = network_class_names(teacher, "teacher")
            names = None if theirs is None else tuple(theirs)
        return names

    def _other_images(self, change: str) -> UserError:
        return UserError(
            f"--model_dir={self._config.model_dir}: holds a run that began with other images ({change}); restore them "
            "to go on with it, or use another --model_dir."
        )
