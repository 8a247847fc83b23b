"""The message of a refused setting."""

import re

import pytest

from tf_simclr.config import UserError


def assert_refused(make, flag, value, fix=""):
    with pytest.raises(UserError) as error:
        make()
    message = str(error.value)
    assert re.fullmatch(rf"--{flag}={re.escape(str(value))}: .{{8,}}\.", message), message
    assert fix in message
