"""Every flag of the command line, with the names and meanings of the authors' TF2 program."""

import dataclasses
from typing import Any

from absl import flags as absl_flags

from tf_simclr import config

# Flags of the authors' older commands: name -> what happens instead.
ACCEPTED_WITHOUT_EFFECT = {
    "train_summary_steps": "summaries are written after each call of the loop (--steps_per_loop)",
    "variable_schema": "which variables of --checkpoint are used follows from the network",
}


def define_flags(flag_values: absl_flags.FlagValues) -> None:
    """Defines all flags; their defaults are those of the dataclasses in `tf_simclr.config`."""
    _define_run(flag_values)
    _define_data(flag_values)
    _define_augmentation(flag_values)
    _define_model(flag_values)
    _define_training(flag_values)
    _define_losses(flag_values)
    _define_evaluation(flag_values)
    _define_devices(flag_values)
    _define_tools(flag_values)
    _define_data_tools(flag_values)


class _LabelsParser(absl_flags.ArgumentParser):
    """Parses a whole number, and leaves several with commas between them to whoever can take them."""

    syntactic_help = "a whole number; with --mode=label_efficiency several, with commas between them"

    def parse(self, argument: int | str) -> int | str:
        """Returns the number, or the text where there is a comma."""
        text = str(argument)
        return text if "," in text else int(text)

    def flag_type(self) -> str:
        """Returns the kind of value that a message asks for."""
        return "int"


class _EpochsParser(absl_flags.ArgumentParser):
    """Parses a number of epochs, and leaves a share of the run such as 5% as text."""

    syntactic_help = "a number of epochs, or a share of the run such as 5%"

    def parse(self, argument: float | str) -> float | str:
        """Returns the number, or the text if it ends in a percent sign."""
        text = str(argument)
        return text if text.endswith("%") else float(text)

    def flag_type(self) -> str:
        """Returns the kind of value that a message asks for."""
        return "epochs"


def _define_epochs(name: str, default: float | str, help_text: str, **options: Any) -> None:
    absl_flags.DEFINE(_EpochsParser(), name, default, help_text, **options)


def _define(flag_values: absl_flags.FlagValues, owner: type, **helps: str) -> None:
    """Defines a flag for each named field of the dataclass `owner`."""
    fields = {field.name: field for field in dataclasses.fields(owner)}
    for name, help_text in helps.items():
        kind = fields[name].type
        define = _DEFINERS[kind]
        define(name, _default(fields[name]), help_text, flag_values=flag_values)


def _default(field: dataclasses.Field) -> Any:
    return field.default


_DEFINERS: dict[Any, Any] = {
    int: absl_flags.DEFINE_integer,
    int | None: absl_flags.DEFINE_integer,
    float: absl_flags.DEFINE_float,
    float | str: _define_epochs,
    bool: absl_flags.DEFINE_boolean,
    bool | None: absl_flags.DEFINE_boolean,
    str: absl_flags.DEFINE_string,
    str | None: absl_flags.DEFINE_string,
}


def _define_run(flag_values):
    _define(
        flag_values,
        config.ExperimentConfig,
        mode="What to do: train, eval (each new checkpoint until training is over) or train_then_eval; "
        "pretrain, finetune, distill, supervised and semi_supervised are short for "
        "--mode=train_then_eval --train_mode= the same. label_efficiency: accuracy against the number of labels. Of "
        "trained networks: export, import, embed, linear_eval, knn_eval, transfer, robustness, benchmark. Of data: "
        "prepare (a folder becomes record files), preview (a picture of the views).",
        model_dir="Directory for checkpoints, results and exports; runs/<dataset>-<train_mode> if not given, with the "
        "last folder of a path. semi_supervised keeps a subfolder for each step. Of transfer: for the results and the "
        "finetuned networks; transfer/ in the directory of the network if not given.",
        keep_hub_module_max="SavedModels that are kept: a run exports one, at its end; 0 switches the export off.",
    )
    for name, instead in ACCEPTED_WITHOUT_EFFECT.items():
        absl_flags.DEFINE_string(name, None, f"Accepted for the authors' commands; {instead}.", flag_values=flag_values)


def _define_data(flag_values):
    _define(
        flag_values,
        config.DataConfig,
        dataset="digits, fashion_mnist_debian (Debian's package), a TFDS name (cifar10, imagenet2012, ...), "
        "folder:PATH with a folder a class, or tfrecord:GLOB (docs/data.md). Several, mixed without their labels, with "
        "commas between them: names first, as in digits,folder:PATH,tfrecord:GLOB.",
        mix="Shares of several sources in each batch, such as 0.7,0.3; by their numbers of images if not given.",
        data_dir="Directory of prepared TFDS data sets; of the files of fashion_mnist_debian.",
        tfds_image_key="Feature of a TFDS data set that is the image; needed if it has several.",
        tfds_label_key="Feature of a TFDS data set that is the label; needed if it has several. Empty: read without "
        "labels.",
        tfrecord_image_key="Feature of tfrecord:GLOB that is the encoded image; found by the usual names if not given.",
        tfrecord_label_key="Feature that is the label, an integer; found by the usual names if not given. Empty: read "
        "without labels.",
        tfrecord_num_classes="Number of classes of tfrecord:GLOB, which spares reading all labels at the start; 0: as "
        "many as there are labels, or as a manifest says.",
        tfrecord_first_label="Label of the first class of tfrecord:GLOB; 1 where they are counted from 1, as those of "
        "ImageNet often are. Images of lower labels, such as -1, have none.",
        train_split="Split to train on; parts and sums as in TFDS, for example train[:80%]+unlabelled. If not given: "
        "train, for pretraining and distillation together with the split unlabelled where there is one.",
        eval_split="Split to evaluate on; validation, or else test, where the data has it, if not given; "
        "for linear_eval and knn_eval test, or else validation.",
        cache_dataset="Keep the examples of a data set that is read from records in memory.",
        max_bad_image_fraction="Share of unreadable images, 0 to 1, over which the run stops.",
        label_fraction="Share of the labels that finetune, supervised, distill, linear_eval and knn_eval see, the same "
        "share of each class; a smaller one lies inside a larger one.",
        label_seed="Seed of the choice of those labels.",
        data_service="Address of a tf.data service, grpc://HOST:PORT, whose data workers make the training "
        "batches. Each image once an epoch while no data worker fails, but in no fixed order: such a run cannot be "
        "repeated exactly.",
    )
    absl_flags.DEFINE(
        _LabelsParser(),
        "labels_per_class",
        config.DataConfig.labels_per_class,
        "Labels of each class that finetune, supervised, distill, linear_eval and knn_eval see; 0 is all. For "
        "label_efficiency the numbers to compare, 1,2,5,10,50 if not given.",
        flag_values=flag_values,
    )


def _define_augmentation(flag_values):
    _define(
        flag_values,
        config.AugmentConfig,
        color_jitter_strength="Strength of the colour jitter; 0 switches jitter and grey-scale off.",
        use_blur="Random Gaussian blur while pretraining.",
        use_flip="Random horizontal flip.",
        crop_min_area="Smallest share of the image that a random crop covers, above 0, up to 1.",
        random_rotation="Largest angle of a random rotation, in degrees; 0 is off.",
        augment_on="Where views are made: host (by the input, on the CPU), device (in the training step, by XLA; "
        "images that are decoded one by one are still cropped by the input), or auto: device on TPUs, and on GPUs "
        "unless --jit_compile=False, else host. Both make the same views, to rounding.",
    )


def _define_model(flag_values):
    _define(
        flag_values,
        config.ModelConfig,
        image_size="Side of the images that the network sees, in pixels; up to 32 takes the small stem.",
        resnet_depth="Depth of the ResNet: 18, 34, 50, 101, 152 or 200.",
        width_multiplier="Multiplier of all numbers of filters; fractions too.",
        sk_ratio="Selective kernels and ResNet-D above 0; the paper uses 0.0625.",
        se_ratio="Squeeze and excitation above 0.",
        proj_head_mode="Projection head: none, linear or nonlinear.",
        proj_out_dim="Width of the projection head's output.",
        num_proj_layers="Layers of a nonlinear projection head.",
        ft_proj_selector="Layer that the supervised head sits on: 0 the encoder output, k the output of "
        "the projection head's layer k, -1 its last.",
        zero_init_logits_layer="Start the supervised head at zero.",
        fine_tune_after_block="Finetuning only: freeze the stem and the block groups up to this one; "
        "-1 none, 4 all but the linear head.",
        batch_norm_decay="Share of the old moving average that batch norm keeps a step, 0 to 1.",
        global_bn="Batch-norm statistics over the batch of all replicas.",
        precision="Number format: float32; mixed_bfloat16 or mixed_float16, where the network computes in 16 bits on "
        "weights of float32; float64 for exact comparisons.",
    )


def _define_training(flag_values):
    _define(
        flag_values,
        config.TrainConfig,
        train_mode="What to train: pretrain, finetune, distill, supervised (the baseline on the same "
        "labels) or semi_supervised (all of them, one after the other).",
        train_batch_size="Images a step over all replicas; each gives two views while pretraining.",
        train_epochs="Passes over the training split.",
        train_steps="Steps to train; 0 means --train_epochs counts.",
        lineareval_while_pretraining="Train a linear probe beside pretraining, without gradients into it.",
        checkpoint="What a new run starts from: a checkpoint, a directory with one, or a SavedModel.",
        checkpoint_epochs="Epochs between checkpoints.",
        checkpoint_steps="Steps between checkpoints; 0 means --checkpoint_epochs counts.",
        keep_checkpoint_max="Newest checkpoints that are kept.",
        steps_per_loop="Steps in one call of the compiled loop; 0 is 10 on a CPU, 100 on accelerators.",
        preemption_grace="Seconds between SIGTERM and the end of the machine: a call of the loop is kept so short "
        "that the checkpoint is written in time.",
        profile_steps="First and last step of a trace of TensorFlow's profiler, such as 10,20: TensorBoard shows it.",
        on_non_finite="What to do where the loss is not finite: stop, or restore: go back to the last checkpoint "
        "and leave out the batches since, at most 3 times.",
        jit_compile="Compile the training step with XLA: auto (on GPUs), True or False. TPUs always do; several "
        "CPU devices cannot.",
        recompute="Compute the inside of each residual block again for its gradient instead of keeping it: less "
        "memory, a third more work.",
        seed="Seed of the order, the augmentation and the initial weights; for linear_eval of the order and of the "
        "choice of validation images; for prepare of the order of the records.",
    )


def _define_losses(flag_values):
    _define(
        flag_values,
        config.ContrastConfig,
        contrastive_loss="nt_xent, or decoupled_nt_xent, which suits small batches (arXiv 2110.06848).",
        temperature="Divides the logits of the contrastive loss.",
        hidden_norm="L2-normalise the projections.",
        contrast_chunks="Parts that each device works its images off in while pretraining, in the memory of "
        "one: the loss is still that of the whole batch. Needs --global_bn=False.",
        memory_size="Negatives of earlier batches that pretraining keeps, beside those of the batch: what a moving "
        "average of the network (MoCo) made of them; 0 is off, the paper has 65536. A third more work.",
        memory_momentum="Share of the averaged weights that a step of pretraining with --memory_size keeps.",
    )
    _define(
        flag_values,
        config.DistillConfig,
        teacher="The network that distill follows: a finetuned run's directory, a checkpoint in one, or a "
        "SavedModel or TF-Hub module that gives logits_sup.",
        allow_remote_teacher="Let --teacher be fetched (https://..., gs://...): a module may run anything.",
        distill_alpha="Weight of the teacher's term, 0 to 1; the labels have the rest (1: no labels are used).",
        distill_temperature="Divides the logits of teacher and student; the paper: 0.1 for self-distillation, "
        "1 for a smaller student.",
        distill_tau_squared="Multiply the teacher's term by the square of the temperature.",
        distill_labeled_share="Share of labelled images in a batch, below 1; 0 is their share of the data, "
        "at least one image. Their number has to be a multiple of the replicas.",
    )
    _define(
        flag_values,
        config.OptimizerConfig,
        optimizer="lars, lamb (needs tensorflow-addons), momentum (Nesterov) or adam.",
        learning_rate="Base learning rate, before --learning_rate_scaling.",
        learning_rate_scaling="linear: times batch / 256. sqrt: times the square root of the batch.",
        warmup_epochs="Epochs of linear warm-up, or a share of the steps of the run, such as 5% (the paper's).",
        weight_decay="L2 weight decay.",
        momentum="Momentum of lars and momentum.",
    )


def _define_evaluation(flag_values):
    _define(
        flag_values,
        config.EvaluationConfig,
        eval_batch_size="Images a step of evaluation, over all replicas.",
        eval_steps="Batches to evaluate; 0 means the whole split.",
        eval_name="Name of this evaluation; it becomes a part of the names of its result files.",
        eval_timeout="Seconds that --mode=eval waits for the next checkpoint before it gives up; 0 means no limit.",
    )
    _define(
        flag_values,
        config.LabelEfficiencyConfig,
        num_seeds="Runs of label_efficiency for each number of labels: run k takes --label_seed and --seed, both plus "
        "k.",
        num_pretrained="Networks that label_efficiency pretrains, with --seed, --seed + 1, ...: run k starts from "
        "network k modulo this number.",
        efficiency_methods="What label_efficiency compares, with commas between: finetune, supervised, distill; "
        "linear_eval (logistic regression on the frozen encoder); raw_pixels (the same on the pixels); "
        "label_spreading (scikit-learn's, on the pixels).",
        efficiency_baseline="What label_efficiency subtracts, run by run on the same labels: one of the methods, or "
        "the directory of another curve.",
    )


def _define_devices(flag_values):
    _define(
        flag_values,
        config.StrategyConfig,
        strategy="Devices: auto (a TPU, several workers, all GPUs, or else the CPU), one_device, mirrored (all "
        "GPUs, else all logical CPUs), multi_worker or tpu.",
        use_tpu="True: a TPU or an error. False: no TPU. Not given: a TPU if --tpu_name names one.",
        tpu_name="Name or address of the TPU; local on a TPU VM.",
        tpu_zone="Zone of the TPU.",
        gcp_project="Project of the TPU.",
        master="Address of the TPU, if --tpu_name is not given.",
        cluster="What names the workers of multi_worker: tf_config (the variable TF_CONFIG), slurm, or auto: "
        "whichever is there, TF_CONFIG first.",
        cluster_port="Port of the workers under Slurm, the first of a node's.",
        cluster_timeout="Seconds to wait for the other workers.",
    )


def _define_tools(flag_values):
    _define(
        flag_values,
        config.ExportConfig,
        export_formats="What export writes, with commas between: saved_model (a TF-Hub module too), folded (batch norm "
        "folded into the convolutions), tflite, onnx (needs tf2onnx), pytorch (torchvision's names).",
        overwrite="Replace what export, import, embed, linear_eval, knn_eval, transfer, robustness, prepare or preview "
        "find in the place of their output; of transfer and robustness, results with other settings.",
    )
    _define(
        flag_values,
        config.ImportConfig,
        ema="Import the moving average of the weights, ema_model/, where the file has it.",
    )
    _define(
        flag_values,
        config.EmbedConfig,
        split="Split of --dataset that embed reads.",
        output="File for the features: .npz, .parquet or .tfrecord; more than --shard_size images become several; or "
        ".png, a picture of a map of them, or .projector, a directory for TensorBoard's projector. Of "
        "linear_eval, knn_eval and robustness: file for the result, .json; not given, it goes to the directory of the "
        "run. Of prepare: directory for the record files. Of preview: file for the picture, .png.",
        endpoint="Output of the network that embed writes, and that linear_eval, knn_eval and transfer classify by.",
        shard_size="Images in one file of embed.",
    )
    _define(
        flag_values,
        config.LinearEvalConfig,
        linear_eval_protocol="lbfgs: logistic regression, its L2 penalty chosen on validation images (SimCLR, B.8). "
        "sgd: 90 epochs of Nesterov momentum, as linear evaluation in the paper but without augmentation.",
    )
    _define(
        flag_values,
        config.KnnEvalConfig,
        knn_neighbors="Nearest training images that vote; 0 is 200, or the mean number of labels a class where "
        "that is less.",
        knn_temperature="Divides the cosine similarity in the weight of a vote.",
    )
    _define(
        flag_values,
        config.TransferConfig,
        datasets="Data sets of transfer and robustness, with commas between them. transfer: names as for --dataset; "
        "those of SimCLR, B.8, have the splits and metrics of the paper. robustness: all of its own if not given.",
        transfer_protocol="linear: logistic regression on frozen features (SimCLR, B.8). finetuned: the whole network, "
        "by 20,000 steps of 256 images, momentum, a learning rate of 0.03 and a weight decay of 1e-4 unless the flags "
        "of training say otherwise.",
    )
    _define(
        flag_values,
        config.BenchmarkConfig,
        benchmark="What to measure: step (of training), input, inference, memory, startup, or flops, which counts.",
        benchmark_batch_size="Images in a batch of the benchmark; each gives two views while pretraining.",
        benchmark_repeats="Repetitions of the benchmark; 5 to 15, by the benchmark, if not given.",
        benchmark_trace_only="startup: trace the first step without running it, for networks that are too big.",
    )


def _define_data_tools(flag_values):
    _define(
        flag_values,
        config.PrepareConfig,
        prepare_short_side="Most pixels of the shorter side of an image in the record files of prepare; 0 leaves "
        "images as they are. None is enlarged.",
        prepare_quality="Quality, 1 to 100, of a JPEG that prepare has to encode anew.",
        prepare_shard_megabytes="About how large a record file of prepare is.",
        prepare_shards="Record files of each split; 0 is as many as --prepare_shard_megabytes asks for.",
        prepare_workers="Processes that prepare works with; 0 is one for each core.",
    )
    _define(
        flag_values,
        config.PreviewConfig,
        preview_images="Images in the picture of preview: the first ones that the run trains on.",
        preview_views="Views of each image in the picture of preview; 0 is as many as training takes: 2 while "
        "pretraining, else 1.",
    )
