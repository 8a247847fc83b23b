"""Modes of the command line, and stages of training."""

TRAIN_MODES = ("pretrain", "finetune", "distill", "supervised")
SEMI_SUPERVISED = "semi_supervised"
LABEL_EFFICIENCY = "label_efficiency"
PREVIEW = "preview"
# What each value of --mode does.
MODES = {
    "train": "train the stage that --train_mode names",
    "eval": "evaluate each new checkpoint until training is over",
    "train_then_eval": "train, evaluate and export",
    "pretrain": "short for --mode=train_then_eval --train_mode=pretrain",
    "finetune": "the same for --train_mode=finetune",
    "distill": "the same for --train_mode=distill",
    "supervised": "the same for --train_mode=supervised",
    SEMI_SUPERVISED: "all four stages, one after the other",
    LABEL_EFFICIENCY: "accuracy against the number of labels: many runs",
    "export": "a trained network as modules for other programs",
    "import": "released weights as a run of this program",
    "embed": "features of a data set, into files",
    "linear_eval": "a linear classifier on frozen features",
    "knn_eval": "the nearest neighbours by frozen features",
    "transfer": "a network on other data sets",
    "robustness": "an ImageNet classifier on other test sets",
    "benchmark": "speed and memory on this machine",
    "prepare": "a folder of images as record files",
    PREVIEW: "a picture of the augmented views",
}
