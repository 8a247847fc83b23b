"""Importing of what `authors_files` makes."""

import functools
import json

import pytest

from tests.interop.authors_files import AuthorsNetwork
from tf_simclr.config import ImportConfig, ModelConfig, UserError
from tf_simclr.interop.released import import_weights

FINETUNED = {"classes": 5, "selector": 1}


@functools.cache
def network(**settings):
    return AuthorsNetwork(**settings)


def import_from(path, directory, *, ema=False, overwrite=False, **stated):
    config = ImportConfig(
        checkpoint=str(path),
        model_dir=str(directory),
        ema=ema,
        overwrite=overwrite,
        model=ModelConfig(**stated),
        stated=tuple(stated),
    )
    return import_weights(config)


def refusal(path, directory, **settings):
    with pytest.raises(UserError) as error:
        import_from(path, directory, **settings)
    message = str(error.value)
    assert "\n" not in message
    assert not directory.exists()
    return message


def settings_of(directory):
    return json.loads((directory / "flags.json").read_text())
