"""How the program ends: the exit status, and the line that says why."""

import os
import signal
from collections.abc import Callable

from tf_simclr.config import PreemptedError, UserError
from tf_simclr.files import printable
from tf_simclr.terminal.memory import reporting_lack_of_memory
from tf_simclr.terminal.output import tell

_REQUIREMENTS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "requirements.txt")
_LESS_MEMORY = "use smaller batches or a smaller network, or end other programs"


def status_of(work: Callable[[], object]) -> int:
    """Does `work`, and tells in one line what ends it early if that is not a mistake of the program.

    Returns:
        The exit status: 0; 2 for what the user can fix; 128 and its number for a signal.
    """
    try:
        with reporting_lack_of_memory("this command", _LESS_MEMORY):
            work()
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


def missing_package(error: ModuleNotFoundError) -> str:
    """Returns which package is not installed, and the command that installs it.

    Raises:
        ModuleNotFoundError: The module is one of this program, which is a mistake in it.
    """
    name = (error.name or "").partition(".")[0]
    if name in ("", "benchmarks", "exports", "flags", "tf_simclr"):
        raise error
    is_checkout = os.path.exists(_REQUIREMENTS)
    fix = f"install -r {os.path.relpath(_REQUIREMENTS)}" if is_checkout else "check, which names all that is missing"
    return f"the package {name} is not installed; run: python -m pip {fix}"
