"""Assembly of a run: the images, views, network and task of each kind of training."""

import dataclasses
import logging
from collections.abc import Callable

import tensorflow as tf

from tf_simclr.config import ExperimentConfig, ModelConfig, UserError
from tf_simclr.data import (
    BatchPlan,
    Source,
    class_numbers,
    few_labels,
    load_eval_source,
    load_source,
    load_training_source,
)
from tf_simclr.files import counted
from tf_simclr.models import SimCLRModel, build_simclr_model
from tf_simclr.runs.data import RunData, read_class_names
from tf_simclr.runs.networks import initialize_from
from tf_simclr.schedules import WarmupCosine
from tf_simclr.tasks.base import Task
from tf_simclr.tasks.distill import DistillTask
from tf_simclr.tasks.finetune import FinetuneTask
from tf_simclr.tasks.pretrain import MemoryPretrainTask, PretrainTask
from tf_simclr.training.checkpoint_head import has_same_classes, may_keep_head
from tf_simclr.training.distillation import compare_sizes, labelled_rows, load_fitting_teacher

_LOG = logging.getLogger("tf_simclr")


@dataclasses.dataclass(frozen=True)
class Assembly:
    """Images, labels, network and task of one run.

    Attributes:
        images: see `source`; None for an evaluation, which needs none.
        num_classes: of the supervised head; None for no head.
        make_task: takes the schedule; to be called in the strategy's scope.
        initialize: loads what `--checkpoint` names into a model; returns lines for the user.
        labelled: images that are added to each batch with their labels; None for none.
        num_labelled: how many of a batch, over all replicas.
        num_labels: images whose labels are learnt from.
        notes: lines for the user, to be told when the training starts.
    """

    images: Source | None
    num_classes: int | None
    make_task: Callable[[WarmupCosine], Task]
    initialize: Callable[[SimCLRModel], str]
    labelled: Source | None = None
    num_labelled: int = 0
    num_labels: int = 0
    notes: tuple[str, ...] = ()

    @property
    def source(self) -> Source:
        """The training images, of which the epochs are counted."""
        if self.images is None:
            raise RuntimeError("An evaluation opens no training images.")
        return self.images


def assemble(config: ExperimentConfig, num_replicas: int, begun_with: RunData | None = None) -> Assembly:
    """Opens the data of a run and says how its network and task are made.

    Args:
        config: of the run.
        num_replicas: that share a batch.
        begun_with: the data that the run began with, if it has begun: an evaluation then opens no training images.

    Raises:
        UserError: the data or the batch do not fit.
    """
    if config.mode == "eval" and begun_with is not None and begun_with.num_images is not None:
        return _evaluate(config, begun_with.num_classes)
    return _KINDS[config.train.train_mode](config, num_replicas, begun_with)


def _unlabelled_images(config: ExperimentConfig, begun_with: RunData | None) -> Source:
    return _numbered_as_begun(load_training_source(config.data), begun_with)


def _numbered_as_begun(source: Source, begun_with: RunData | None) -> Source:
    """Returns a source whose classes have the numbers that the run began with, if they are the same classes."""
    before, now = begun_with and begun_with.class_names, source.class_names
    if before is None or now is None or len(before) != len(now):
        return source
    numbers = class_numbers(now, before)
    return source if numbers is None else source.relabelled(numbers, before)


def _check_fits(config: ExperimentConfig, plan: BatchPlan, source: Source) -> None:
    if config.mode != "eval":  # Which needs no training batch, and may be of another data set.
        plan.check_fits(source)


def _check_chunks(plan: BatchPlan, num_chunks: int, source: Source) -> None:
    """Raises UserError unless the rows of each replica can be cut into chunks of the same size."""
    batch_size, unit = plan.global_batch_size, plan.total_replicas * num_chunks
    lower = batch_size // unit * unit
    if num_chunks > 1 and lower != batch_size:
        nearest = [str(size) for size in (lower, lower + unit) if 0 < size <= source.num_examples]
        raise UserError(
            f"--train_batch_size={batch_size}: cannot be cut into --contrast_chunks={num_chunks} equal parts on "
            f"each of {plan.total_replicas} replica(s); use {' or '.join([*nearest, 'fewer chunks'])}."
        )


def _evaluate(config: ExperimentConfig, num_classes: int | None) -> Assembly:
    def make_task(schedule: WarmupCosine) -> Task:
        model = _fresh_network(config, config.model, num_classes)
        if not config.train.is_contrastive:
            model.freeze_for_finetuning(config.model.fine_tune_after_block)  # Unused layers are not counted.
        return FinetuneTask(model, config.optimizer, schedule)

    return Assembly(None, num_classes, make_task, lambda model: "")


def _pretrain(config: ExperimentConfig, num_replicas: int, begun_with: RunData | None) -> Assembly:
    source = _unlabelled_images(config, begun_with)
    plan = BatchPlan.shared(config.train.train_batch_size, num_replicas)
    _check_chunks(plan, config.contrast.contrast_chunks, source)
    _check_fits(config, plan, source)
    notes = source.describe_batch(config.train.train_batch_size)
    without_probe = _why_no_probe(config, source)
    has_probe = config.train.lineareval_while_pretraining and without_probe is None
    num_classes = source.num_classes if has_probe else None
    if config.train.lineareval_while_pretraining and without_probe:
        notes.append(f"{without_probe}: pretraining without the online linear probe, which needs all labels.")
    if config.contrast.memory_size:
        notes += _describe_memory(config.contrast.memory_size, plan, source)

    def make_task(schedule: WarmupCosine) -> Task:
        model = _fresh_network(config, config.model, num_classes)
        task = MemoryPretrainTask if config.contrast.memory_size else PretrainTask
        return task(model, config.optimizer, schedule, config.contrast)

    def initialize(model: SimCLRModel) -> str:
        return initialize_from(str(config.train.checkpoint), model, keep_head=has_same_classes(config, source))

    return Assembly(
        source,
        num_classes,
        make_task,
        initialize,
        num_labels=source.num_examples if has_probe else 0,
        notes=tuple(notes),
    )


def _why_no_probe(config: ExperimentConfig, source: Source) -> str | None:
    """Returns why no linear probe can be trained beside pretraining; None if one can."""
    if source.num_classes is None:
        return f"{source.name} has no labels"
    if source.num_classes == 1:
        return f"{source.name} has a single class"
    if config.data.few_labels:
        return "Few labels are asked for"
    if source.num_unlabelled:
        return f"{source.num_unlabelled} of the {source.num_examples} images of {source.name} have no label"
    return None


def _describe_memory(size: int, plan: BatchPlan, source: Source) -> list[str]:
    num_steps, num_views = -(-size // (2 * plan.global_batch_size)), 2 * source.num_examples
    notes = [f"The memory of {size} negatives is full after {counted(num_steps, 'step')}."]
    if size >= num_views:
        notes.append(
            f"--memory_size={size}: the training images have {num_views} views an epoch, so each image meets earlier "
            "views of itself as negatives; a part of that leaves most of them out."
        )
    return notes


def _finetune(config: ExperimentConfig, num_replicas: int, begun_with: RunData | None) -> Assembly:
    images = load_source(config.data, config.data.labelled_split)
    source = few_labels(_numbered_as_begun(images, begun_with), config.data)
    batch_size, notes = config.train.train_batch_size, []
    if config.mode != "eval":
        BatchPlan.shared(batch_size, num_replicas).check("train_batch_size")
    if batch_size > source.num_examples:
        notes.append(
            f"--train_batch_size={batch_size} is more than the {counted(source.num_examples, 'image')} of "
            f"{source.name}: a batch shows each several times."
        )

    def make_task(schedule: WarmupCosine) -> Task:
        # A new classifier on learnt features starts undecided, as in the paper.
        starts_at_zero = config.model.zero_init_logits_layer or config.train.starts_from_checkpoint
        model_config = dataclasses.replace(config.model, zero_init_logits_layer=starts_at_zero)
        model = _fresh_network(config, model_config, source.num_classes)
        model.freeze_for_finetuning(config.model.fine_tune_after_block)
        return FinetuneTask(model, config.optimizer, schedule)

    def initialize(model: SimCLRModel) -> str:
        return initialize_from(str(config.train.checkpoint), model, keep_head=may_keep_head(config, source))

    return Assembly(
        source,
        source.num_classes,
        make_task,
        initialize,
        num_labels=source.num_examples,
        notes=tuple(notes),
    )


def _distill(config: ExperimentConfig, num_replicas: int, begun_with: RunData | None) -> Assembly:
    source = _unlabelled_images(config, begun_with)
    plan = BatchPlan.shared(config.train.train_batch_size, num_replicas)
    _check_fits(config, plan, source)
    notes = source.describe_batch(config.train.train_batch_size)
    labelled, num_labelled = None, 0
    if config.mode != "eval" and len(config.data.sources) == 1:
        labelled, num_labelled = labelled_rows(config, source, plan)
    if num_labelled:
        notes.append(f"{num_labelled} of the {plan.global_batch_size} images of a batch are labelled.")

    def make_task(schedule: WarmupCosine) -> Task:
        is_trained = config.mode != "eval"  # Which needs no teacher: it may be gone.
        teacher = load_fitting_teacher(config, source) if is_trained else None
        num_classes = teacher.num_classes if teacher else source.num_classes or _num_classes_of_run(config)
        student = _fresh_network(config, config.model, num_classes)
        student.freeze_for_finetuning()
        if teacher is None:
            return FinetuneTask(student, config.optimizer, schedule)
        compare_sizes(student, teacher)
        rows = num_labelled // num_replicas
        return DistillTask(
            student, config.optimizer, schedule, config.distill, teacher=teacher.logits, num_labelled=rows
        )

    def initialize(model: SimCLRModel) -> str:
        return initialize_from(str(config.train.checkpoint), model, keep_head=may_keep_head(config, source))

    return Assembly(
        source,
        source.num_classes,
        make_task,
        initialize,
        labelled,
        num_labelled,
        num_labels=(labelled or source).num_examples if num_labelled else 0,
        notes=tuple(notes),
    )


def _num_classes_of_run(config: ExperimentConfig) -> int | None:
    """Returns the number of classes of a student that is evaluated, whose images have none."""
    if names := read_class_names(str(config.model_dir)):
        return len(names)
    held_out = load_eval_source(config.data)
    return held_out.num_classes if held_out else None


def _fresh_network(config: ExperimentConfig, model_config: ModelConfig, num_classes: int | None) -> SimCLRModel:
    tf.keras.utils.set_random_seed(config.train.seed)  # The initial weights are drawn from it.
    model = build_simclr_model(model_config, num_classes)
    model.recompute = config.train.recompute
    return model


_Assemble = Callable[[ExperimentConfig, int, RunData | None], Assembly]
_KINDS: dict[str, _Assemble] = {
    "pretrain": _pretrain,
    "finetune": _finetune,
    "supervised": _finetune,
    "distill": _distill,
}
