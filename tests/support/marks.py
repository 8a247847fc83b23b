"""Parameters of which a few are usual, and the others repeat what these show."""

import pytest


def usual(*cases, also=()):
    """Returns all cases; those of `also` are left to `make test-all`."""
    mark = pytest.mark.exhaustive
    return [*cases, *(pytest.param(*(case if isinstance(case, tuple) else [case]), marks=mark) for case in also)]
