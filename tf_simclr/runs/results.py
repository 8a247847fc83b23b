"""The result files of a run: `result.json`, `result_<step>.json` and `result_confusion.csv`."""

import os
from collections.abc import Mapping
from typing import Any

from tf_simclr.config import ExperimentConfig, UserError
from tf_simclr.files import between, counted, find_json, to_json
from tf_simclr.metrics.confusion import Confusion, confusion_path, to_csv
from tf_simclr.metrics.scores import scores_form
from tf_simclr.runs.directory import write_outcome

NUM_BAD_IMAGES = "train/num_bad_images"
"""A number that only training counts, and so marks the result of a finished run."""
# The same values mean the same evaluation.
_EVALUATION_SETTINGS = ("eval_split", "eval_steps")
_COUNT = between(0, 2**53)
_FORM = {"global_step": _COUNT, "num_weights?": _COUNT, f"{NUM_BAD_IMAGES}?": _COUNT} | scores_form("eval/")
_TOLD = ("eval/label_top_1_accuracy", "eval/label_top_5_accuracy", "eval/num_examples")


class ResultFiles:
    """The result files of one run, or of one named evaluation of it.

    Args:
        config: of the run; `eval_name` becomes part of the file names.
        eval_fingerprint: of the images for evaluation; None if there are none.
    """

    def __init__(self, config: ExperimentConfig, eval_fingerprint: str | None = None):
        self._directory = str(config.model_dir)
        settings = config.to_dict()
        self._evaluated = {name: settings[name] for name in _EVALUATION_SETTINGS} | {
            "eval_fingerprint": eval_fingerprint
        }
        self._what = "linear probe" if config.train.is_contrastive else config.train.train_mode
        name = config.evaluation.eval_name
        self._stem = os.path.join(self._directory, f"result_{name}" if name else "result")

    def write(self, result: Mapping[str, Any]) -> None:
        """Writes the result as that of its step and as the newest one, and says what was evaluated.

        Raises:
            UserError: a file cannot be written.
        """
        if NUM_BAD_IMAGES not in result:  # An evaluation of a finished run leaves it finished.
            result = (self.finished(result["global_step"]) or {}) | dict(result)
        self.write_step(result)
        self._write(f"{self._stem}.json", result)

    def write_step(self, result: Mapping[str, Any]) -> None:
        """Writes the result of its step only, while the run or its evaluation is not finished.

        Raises:
            UserError: the file cannot be written.
        """
        self._write(f"{self._stem}_{result['global_step']}.json", result)

    def write_confusion(self, confusion: Confusion) -> None:
        """Writes the confusion matrix of the newest evaluation.

        Raises:
            UserError: the file cannot be written.
        """
        write_outcome(self._directory, confusion_path(f"{self._stem}.json"), to_csv(confusion))

    def _write(self, path: str, result: Mapping[str, Any]) -> None:
        write_outcome(self._directory, path, to_json(dict(result) | self._evaluated))

    def finished(self, total_steps: int) -> dict[str, Any] | None:
        """Returns the result of a run that has reached `total_steps`; None if there is none, or of other images."""
        result = self._result_of_training()
        if result is None or not self._is_of_same_images(result):
            return None
        if result["global_step"] < total_steps:
            return None
        return {name: value for name, value in result.items() if name not in self._evaluated}

    def check_keeps_result(self) -> None:
        """Raises UserError if an evaluation would replace the result of training by one on other images."""
        result = self._result_of_training()
        if result is not None and not self._is_of_same_images(result):
            raise UserError(
                f"--eval_name: not given, but {self._stem}.json is of other images than this evaluation; give it a "
                "name of its own, such as --eval_name=other."
            )

    def _result_of_training(self) -> dict[str, Any] | None:
        """Returns the newest result if training has ended with it; None if not, or if it is damaged."""
        result = find_json(f"{self._stem}.json", _FORM)
        return result if result is not None and NUM_BAD_IMAGES in result else None

    def _is_of_same_images(self, result: Mapping[str, Any]) -> bool:
        # Earlier versions wrote no fingerprint.
        return all(result.get(name, value) == value for name, value in self._evaluated.items())

    def describe(self, result: Mapping[str, Any]) -> str:
        """Returns one line for the user."""
        where = f"step {result['global_step']}; files in {self._directory}"
        top_1, top_5, images = (result.get(name) for name in _TOLD)
        if top_1 is None or top_5 is None or images is None:
            return where
        shown = counted(images, "held-out image")
        return f"{self._what} top-1 {top_1:.2%}, top-5 {top_5:.2%} on {shown}; {where}"
