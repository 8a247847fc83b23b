"""The configuration or the error of a command line."""

import pytest

from flags.convert import parse_command_line
from tf_simclr.config import UserError


def parse(*arguments):
    return parse_command_line(arguments)[0]


def refusal(*arguments):
    with pytest.raises(UserError) as error:
        parse_command_line(arguments)
    message = str(error.value)
    assert "\n" not in message
    return message
