"""SimCLRv2 for TensorFlow 2 and Keras: pretraining, evaluation and export of (SK-)ResNets.

Importing this package loads no TensorFlow, so that a wrong setting fails in milliseconds. It
selects the Keras 2 API (package `tf-keras`), which all of the code uses, before TensorFlow loads.
"""

import importlib.util
import logging
import os
import sys
from typing import TYPE_CHECKING, Any

from tf_simclr.files import printable
from tf_simclr.terminal.noise import LEVEL, QUIET, without_noise

__version__ = "0.1.0"

os.environ["TF_USE_LEGACY_KERAS"] = "1"
os.environ.setdefault(LEVEL, QUIET)

# The work of the program, each a function of a configuration; loaded when it is used.
if TYPE_CHECKING:
    from tf_simclr.evaluation.embed import embed as embed
    from tf_simclr.evaluation.probe import probe as probe
    from tf_simclr.interop.released import import_weights as import_weights
    from tf_simclr.preparation.prepare import prepare as prepare
    from tf_simclr.preparation.preview import preview as preview
    from tf_simclr.suites.robustness import robustness as robustness
    from tf_simclr.suites.transfer import transfer as transfer
    from tf_simclr.training.experiment import train_and_evaluate as train_and_evaluate
    from tf_simclr.workflows.run import run as run
    from tf_simclr.workflows.semi_supervised import semi_supervised as semi_supervised
_HOMES = {
    "embed": "evaluation.embed",
    "import_weights": "interop.released",
    "prepare": "preparation.prepare",
    "preview": "preparation.preview",
    "probe": "evaluation.probe",
    "robustness": "suites.robustness",
    "run": "workflows.run",
    "semi_supervised": "workflows.semi_supervised",
    "train_and_evaluate": "training.experiment",
    "transfer": "suites.transfer",
}


def _refuse_keras_3() -> None:
    """Raises ImportError if `tf.keras` is Keras 3 already, which cannot be undone."""
    tensorflow = sys.modules.get("tensorflow")
    if tensorflow is None or "keras" not in sys.modules:
        return
    if str(getattr(tensorflow.keras, "__version__", "2")).startswith("3"):
        raise ImportError(
            "tf_simclr uses the Keras 2 API, but Keras 3 was already loaded as tf.keras; "
            "import tf_simclr first, or set the environment variable TF_USE_LEGACY_KERAS=1."
        )


_refuse_keras_3()


def _make_printable(record: logging.LogRecord) -> bool:
    """Escapes control characters: names of files and classes come from elsewhere and may hold any."""
    record.msg, record.args = printable(record.getMessage()), None
    return True


logging.getLogger(__name__).addFilter(_make_printable)


def __getattr__(name: str) -> Any:
    with without_noise():
        if name in _HOMES:
            return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
        if not name.startswith("_") and importlib.util.find_spec(f"{__name__}.{name}"):
            return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
