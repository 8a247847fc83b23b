"""The data sets of transfer, with their splits and metrics."""

import dataclasses

TOP_1 = "top-1"
MEAN_PER_CLASS = "mean per class"
MEAN_AVERAGE_PRECISION = "11-point mAP"


@dataclasses.dataclass(frozen=True, kw_only=True)
class TransferDataset:
    """One data set.

    Attributes:
        dataset: its name in TFDS, or any value of `--dataset`.
        metric: one of the three above.
        train: split to learn from.
        validation: split to choose settings by, which the final fit learns from too; None: the validation images of
            the data set, or else a part of `train`.
        test: split for the result; None for test, or else validation.
        label_sets: feature with all classes of an image, and feature with the classes that are plain to see; None
            if an image has one class.
    """

    dataset: str
    metric: str = TOP_1
    train: str = "train"
    validation: str | None = None
    test: str | None = "test"
    label_sets: tuple[str, str] | None = None

    @property
    def all_labelled(self) -> str:
        """The split that holds the images of `train` and of `validation`."""
        # This program takes a sum of parts, but not of whole splits.
        return self.train if self.validation is None else f"{self.train}[:100%]+{self.validation}[:100%]"


# SimCLR (arXiv 2002.05709), appendix B.8, without Birdsnap and FGVC Aircraft, which TFDS does not have. If the creators
# of a data set name several splits, the first one counts, as in the paper.
TRANSFER_DATASETS: dict[str, TransferDataset] = {
    # TFDS calls the test images of Food-101 validation.
    "food101": TransferDataset(dataset="food101", test="validation"),
    "cifar10": TransferDataset(dataset="cifar10"),
    "cifar100": TransferDataset(dataset="cifar100"),
    "sun397": TransferDataset(dataset="sun397/standard-part1-120k"),
    "cars196": TransferDataset(dataset="cars196"),
    "voc/2007": TransferDataset(
        dataset="voc/2007",
        metric=MEAN_AVERAGE_PRECISION,
        validation="validation",
        label_sets=("labels", "labels_no_difficult"),
    ),
    "dtd": TransferDataset(dataset="dtd", validation="validation"),
    "oxford_iiit_pet": TransferDataset(dataset="oxford_iiit_pet", metric=MEAN_PER_CLASS),
    "caltech101": TransferDataset(dataset="caltech101", metric=MEAN_PER_CLASS),
    "oxford_flowers102": TransferDataset(dataset="oxford_flowers102", metric=MEAN_PER_CLASS, validation="validation"),
}


def find_dataset(name: str) -> TransferDataset:
    """Returns a data set of the table, or any other with top-1 accuracy as its metric.

    Args:
        name: as in the table or in TFDS, also with a `:version` of TFDS.
    """
    plain, colon, version = name.partition(":")
    by_name = {dataset.dataset: dataset for dataset in TRANSFER_DATASETS.values()} | TRANSFER_DATASETS
    if plain not in by_name:
        return TransferDataset(dataset=name, test=None)
    found = by_name[plain]
    return dataclasses.replace(found, dataset=f"{found.dataset}{colon}{version}")
