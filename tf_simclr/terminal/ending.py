"""The end of the program: its exit status, and the line that says why it ended early."""

import functools
import os
import signal
from collections.abc import Callable
from typing import ParamSpec

from tf_simclr.config import PreemptedError, UserError
from tf_simclr.files import printable
from tf_simclr.terminal.memory import reporting_lack_of_memory
from tf_simclr.terminal.output import log_to_standard_output, tell

_REQUIREMENTS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "requirements.txt")
_LESS_MEMORY = "use smaller batches or a smaller network, or end other programs"
_Arguments = ParamSpec("_Arguments")


def ending_with_status(work: Callable[_Arguments, object]) -> Callable[_Arguments, int]:
    """Makes `work` return the exit status, and tell in one line why it ended early unless that is a bug.

    The status is 0; 2 for a mistake that the user can fix; 128 plus its number for a signal.
    """

    @functools.wraps(work)
    def call(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> int:
        log_to_standard_output()
        try:
            with reporting_lack_of_memory("this command", _LESS_MEMORY):
                work(*args, **kwargs)
        except UserError as error:
            tell(f"error: {printable(str(error))}")
            return 2
        except ModuleNotFoundError as error:
            tell(f"error: {missing_package(error)}")
            return 2
        except PreemptedError as error:
            how = "interrupted" if error.signal_number == signal.SIGINT else "preempted"
            tell(f"{how}: {printable(str(error))}; the same command goes on from there.")
            return 128 + error.signal_number
        except KeyboardInterrupt as error:
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # A second one ends the process without a traceback.
            tell(f"interrupted: {printable(str(error)) or 'nothing was saved since the start'}.")
            return 128 + signal.SIGINT
        return 0

    return call


def missing_package(error: ModuleNotFoundError) -> str:
    """Returns which package is not installed, and the command that installs it.

    Raises:
        ModuleNotFoundError: if the module belongs to this program, which is a bug.
    """
    name = (error.name or "").partition(".")[0]
    if name in ("", "benchmarks", "exports", "flags", "tf_simclr"):
        raise error
    is_checkout = os.path.exists(_REQUIREMENTS)
    fix = f"install -r {os.path.relpath(_REQUIREMENTS)}" if is_checkout else "check, which names all that is missing"
    return f"the package {name} is not installed; run: python -m pip {fix}"
