"""Declarations of settings, the source of flags, checks, `--help` and docs/flags.md."""

import dataclasses
import functools
import math
import re
from typing import Any, ClassVar, NamedTuple

from tf_simclr.config.checks import UserError, check

SEEDS = "0 to 2147483647"
_KEY = "setting"
_KINDS = {bool: "True or False", float: "a number", int: "a whole number", str: "text"}
_N = r"-?\d+(?:\.\d+)?"
_BOUNDS = re.compile(
    rf"(?:a number above (?P<above>{_N})|(?:at least )?(?P<least>{_N}))"
    rf"(?: or more(?:, less than (?P<below>{_N}))?|(?:, up)? to (?P<most>{_N}))?(?: \w+)?"
)


class _Bounds(NamedTuple):
    """Bounds of a number: `least` and `most` are inclusive, `above` and `below` exclusive."""

    least: float = -math.inf
    most: float = math.inf
    above: float = -math.inf
    below: float = math.inf


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
    """A setting of a group, made by `setting` and completed by `settings_of`.

    Args:
        help: what it does.
        values: all allowed values; or the bounds of a number, in words that a user reads and `_BOUNDS` parses.
            Words in brackets or after a semicolon are only for the user.
        several: whether it takes one or more of the values, with commas between them.
        limit: largest sensible number, if the bounds have no upper one.
        pattern: regular expression that matches the whole of a valid text.
        fix: what to use instead of a wrong text. With a fix, an empty text is wrong.
        required: whether it has to be given.
        free: whether it may change between two starts of a run: neither the weights nor their meaning depend on it.
        inherited: whether `--mode=eval` takes it from the directory of the run. False for everything that is loaded
            or connected to: a file must not choose it.
        unused_by: modes that do not use it, although they use others of its group.
        topic: the part of `--help` that lists it.
        name: name of its flag.
        kind: its type.
        default: value if it is not given.
    """

    help: str
    values: str | tuple[Any, ...] = ""
    several: bool = False
    limit: float = 2**20
    pattern: str = ".+"
    fix: str = ""
    required: bool = False
    free: bool = False
    inherited: bool = True
    unused_by: tuple[str, ...] = ()
    topic: str = ""
    name: str = ""
    kind: Any = None
    default: Any = None

    @property
    def values_text(self) -> str:
        """The allowed values in words; empty if every value of the type is allowed."""
        if isinstance(self.values, str):
            return self.values
        names = ", ".join(map(str, self.values))
        return f"one or more of {names}, with commas between them" if self.several else f"one of {names}"

    def check(self, name: str, value: Any, kind: Any) -> None:
        """Raises UserError unless `value` has the type `kind` and the declaration allows it."""
        if self.required and not value:
            raise UserError(f"--{name}: not given; {self.fix}.")
        fits = isinstance(value, kind) or (isinstance(value, int) and isinstance(0.0, kind))
        check(fits, name, value, f"use {kind_text(kind)}.")
        if isinstance(self.values, tuple):
            parts = [part.strip() for part in value.split(",")] if self.several else [value]
            check(set(parts) <= set(self.values), name, value, f"use {self.values_text}.")
        elif isinstance(value, str) and (self.fix or self.values):
            fits = re.fullmatch(self.pattern, value, re.DOTALL) is not None
            check(fits, name, value, f"{self.fix or f'use {self.values}'}.")
        elif isinstance(value, int | float):
            self._check_number(name, value)

    def _check_number(self, name: str, value: float) -> None:
        # `isfinite` fails for integers that are too large for a float.
        check(isinstance(value, int) or math.isfinite(value), name, value, "use a finite number.")
        bounds = _bounds(self.values_text)
        inside = bounds.least <= value <= bounds.most and bounds.above < value < bounds.below
        check(inside, name, value, f"use {self.values}.")
        check(value <= self.limit or bounds.most < math.inf, name, value, f"use at most {self.limit}.")


def kind_text(kind: Any) -> str:
    """Returns a type in words, such as "a number"."""
    kinds = getattr(kind, "__args__", (kind,))
    return next(words for one, words in _KINDS.items() if one in kinds)


@functools.cache
def _bounds(words: str) -> _Bounds:
    """Returns the bounds that the words state; infinite ones without words.

    Raises:
        ValueError: if the words do not match `_BOUNDS`.
    """
    match = _BOUNDS.fullmatch(re.sub(r" \([^)]*\)|;.*", "", words))
    if words and match is None:
        raise ValueError(f"no bounds of a number: {words}")
    return _Bounds(**{name: float(text) for name, text in match.groupdict().items() if text} if match else {})


def setting(default: Any, help: str, values: str | tuple[Any, ...] = "", **facts: Any) -> Any:
    """Declares a field of a group of settings; `Setting` describes the arguments."""
    return dataclasses.field(default=default, metadata={_KEY: Setting(help=help, values=values, **facts)})


# A setting of one command: free, and an evaluation does not inherit it from its run.
setting_of_command = functools.partial(setting, free=True, inherited=False)


def same_as(owner: type, name: str, **facts: Any) -> Any:
    """Declares a field like that of another group, with `facts`, a default among them, replaced."""
    (field,) = (field for field in dataclasses.fields(owner) if field.name == name)
    default = facts.pop("default", field.default)
    return dataclasses.field(default=default, metadata={_KEY: dataclasses.replace(field.metadata[_KEY], **facts)})


def settings_of(owner: Any) -> dict[str, Setting]:
    """Returns the settings of a group and of the groups in it, by name."""
    found: dict[str, Setting] = {}
    for field in dataclasses.fields(owner):
        if dataclasses.is_dataclass(field.type):
            found |= settings_of(field.type)
        elif declared := field.metadata.get(_KEY):
            known = {"name": field.name, "kind": field.type, "default": field.default}
            found[field.name] = dataclasses.replace(declared, topic=declared.topic or owner.topic, **known)
    return found


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """A group of settings, each checked when the group is made. Subclasses check several together.

    `topic` is the part of `--help` that lists the group.
    """

    topic: ClassVar[str]

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if declared := field.metadata.get(_KEY):
                declared.check(field.name, getattr(self, field.name), field.type)

    def to_dict(self) -> dict[str, Any]:
        """Returns {flag name: value} of all settings, nested groups included, ready for JSON."""
        flat: dict[str, Any] = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            flat |= value.to_dict() if isinstance(value, Settings) else {field.name: value}
        return flat

    def _require(self, condition: bool, name: str, fix: str) -> None:
        """Raises UserError("--name=value: fix") unless `condition` holds."""
        if not condition:
            value = getattr(self, name) if hasattr(self, name) else self.to_dict()[name]
            raise UserError(f"--{name}={value}: {fix}")

    def _set(self, **values: Any) -> None:
        """Sets values that follow from others, while the group is made."""
        for name, value in values.items():
            object.__setattr__(self, name, value)
