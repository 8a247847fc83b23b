"""Linear probe on frozen features of the digits, pretrained against randomly initialised, several seeds.

python -m benchmarks.digits_probe --num_seeds=5 [--baselines_only]

Other flags are those of run.py. The probe is scikit-learn's logistic regression on standardised features,
its regularisation chosen by 5-fold cross-validation on the training images. Test images are used once, for
the figures that are printed. The randomly initialised network is shown twice: as training starts with it, and
strengthened: with open residual branches and the batch-norm statistics of the training images.
"""

import argparse
import shutil
import sys
import tempfile

import numpy as np

from flags.convert import parse_command_line
from tf_simclr.config import ExperimentConfig

_REGULARISATION = np.logspace(-3, 2, 6)
# The moving averages forget a tenth an update: 1e-4 of their start is left.
_STATISTICS_UPDATES = 90


def probe_accuracy(train_features, train_labels, test_features, test_labels) -> float:
    """Returns the test accuracy in percent of a logistic regression on `[N, D]` features."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=5000))
    search = GridSearchCV(model, {"logisticregression__C": _REGULARISATION}, cv=5)
    return 100 * search.fit(train_features, train_labels).score(test_features, test_labels)


def nearest_neighbour_accuracy(train_features, train_labels, test_features, test_labels) -> float:
    """Returns the test accuracy in percent of 5 nearest neighbours by cosine similarity."""
    from sklearn.neighbors import KNeighborsClassifier

    neighbours = KNeighborsClassifier(5, metric="cosine").fit(train_features, train_labels)
    return 100 * neighbours.score(test_features, test_labels)


def run_seed(config: ExperimentConfig, *, train: bool) -> dict[str, float]:
    """Returns all accuracies of one seed, in percent; without `train` only those of the baselines."""
    from tf_simclr.augment import EvalView
    from tf_simclr.experiment import Experiment

    experiment = Experiment(config)
    model, view = experiment.task.model, EvalView(image_size=config.model.image_size)
    sources = [experiment.train_source, experiment.eval_source]
    images = [view.crop_batch(source.images) for source in sources]
    labels = [source.labels for source in sources]

    def features():
        return [model.forward(x, training=False).endpoints["final_avg_pool"].numpy() for x in images]

    def score(function, inputs):
        return function(inputs[0], labels[0], inputs[1], labels[1])

    pixels = [source.images.reshape(len(source.images), -1) / 255.0 for source in sources]
    result = {
        "raw pixels, linear": score(probe_accuracy, pixels),
        "raw pixels, 5-NN": score(nearest_neighbour_accuracy, pixels),
        "random network, linear": score(probe_accuracy, features()),
    }
    initial = [variable.numpy() for variable in model.variables]
    strengthen_random_network(model, images[0])
    result["random network, strengthened, linear"] = score(probe_accuracy, features())
    for variable, value in zip(model.variables, initial, strict=True):
        variable.assign(value)
    if not train:
        return result
    online = experiment.train([])
    return result | {
        "pretrained, linear": score(probe_accuracy, features()),
        "pretrained, 5-NN": score(nearest_neighbour_accuracy, features()),
        "pretrained, online probe": 100 * online["eval/label_top_1_accuracy"],
    }


def strengthen_random_network(model, images) -> None:
    """Opens the residual branches, which start closed, and takes the statistics of `images`."""
    from tf_simclr.models import update_moving_statistics

    for norm in model.norms:
        norm.gamma.assign(norm.gamma * 0 + 1)
    for _ in range(_STATISTICS_UPDATES):
        update_moving_statistics(model.norms, model.forward(images, training=True).statistics)


def main() -> None:
    """Prints a table of means and standard deviations over the seeds."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--num_seeds", type=int, default=5)
    parser.add_argument("--baselines_only", action="store_true")
    options, rest = parser.parse_known_args(sys.argv[1:])
    results = []
    for seed in range(options.num_seeds):
        directory = tempfile.mkdtemp(prefix="digits_probe_")
        arguments = ["--dataset=digits", *rest, f"--seed={seed}", f"--model_dir={directory}"]
        results.append(run_seed(parse_command_line(arguments)[0], train=not options.baselines_only))
        shutil.rmtree(directory)
        print(f"seed {seed}: " + ", ".join(f"{k} {v:.2f}" for k, v in results[-1].items()), flush=True)
    print("| | " + " | ".join(f"seed {i}" for i in range(len(results))) + " | mean | sd |")
    print("| --- |" + " --- |" * (len(results) + 2))
    for name in results[0]:
        values = np.array([result[name] for result in results])
        spread = values.std(ddof=1) if len(values) > 1 else 0.0
        cells = " | ".join(f"{value:.2f}" for value in values)
        print(f"| {name} | {cells} | {values.mean():.2f} | {spread:.2f} |")


if __name__ == "__main__":
    main()
