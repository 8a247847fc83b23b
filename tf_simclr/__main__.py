"""`python -m tf_simclr`: the same as `tf-simclr` and `python run.py`."""

import os
import sys

if __name__ == "__main__":
    # `run` is a common name: Python must not take a program of the user's in the working directory for it.
    if os.getcwd() != os.path.dirname(os.path.dirname(os.path.abspath(__file__))):
        sys.path[:] = [path for path in sys.path if path != os.getcwd()]
    from run import console

    console()
