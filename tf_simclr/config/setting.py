"""Settings, each declared once: flags, checks, `--help` and docs/flags.md are made from the declarations."""

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
    """What a number is at least, at most, above and below."""

    least: float = -math.inf
    most: float = math.inf
    above: float = -math.inf
    below: float = math.inf


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
    """A setting of a group, made by `setting` and completed by `settings_of`.

    Args:
        help: what it does.
        values: the values that there are: all of them, or the bounds of a number, in words that a user reads and
            `_BOUNDS` understands. What is in brackets or behind a semicolon is for the user alone.
        several: whether a value is one or more of the values, with commas between them.
        limit: number above which a value makes no sense, if the bounds have no upper one.
        pattern: regular expression of a whole text.
        fix: what to use instead of a wrong text. An empty text is one.
        required: whether it has to be given.
        free: whether it may change between two starts of a run: neither the weights nor their meaning depend on it.
        inherited: whether `--mode=eval` takes it from the directory of the run. A file in a directory chooses nothing
            that is loaded or connected to.
        unused_by: modes that have no use for it, although they use others of its group.
        topic: the part of `--help` that has it.
        name: that of its flag.
        kind: its type.
        default: its value if it is not given.
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
        """The values that there are, in words; empty if they are all of the type."""
        if isinstance(self.values, str):
            return self.values
        names = ", ".join(map(str, self.values))
        return f"one or more of {names}, with commas between them" if self.several else f"one of {names}"

    def check(self, name: str, value: Any, kind: Any) -> None:
        """Raises UserError unless `value` is of a type and one that the declaration allows."""
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
        # Integers have no limit, and a float cannot hold the largest.
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
    """Returns the bounds that are stated in words, none for none.

    Raises:
        ValueError: the words are not of the form that `_BOUNDS` has.
    """
    match = _BOUNDS.fullmatch(re.sub(r" \([^)]*\)|;.*", "", words))
    if words and match is None:
        raise ValueError(f"no bounds of a number: {words}")
    return _Bounds(**{name: float(text) for name, text in match.groupdict().items() if text} if match else {})


def setting(default: Any, help: str, values: str | tuple[Any, ...] = "", **facts: Any) -> Any:
    """Declares a field of a group of settings; `Setting` describes the arguments."""
    return dataclasses.field(default=default, metadata={_KEY: Setting(help=help, values=values, **facts)})


# A setting of one command: it may change, and an evaluation does not take it from its run.
setting_of_command = functools.partial(setting, free=True, inherited=False)


def same_as(owner: type, name: str, **facts: Any) -> Any:
    """Declares a field like that of another group, but for `facts` and, if it is among them, the default."""
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
    """A group of settings, which checks each of them when it is made; its subclasses check several together.

    `topic` is the part of `--help` that has the settings of the group.
    """

    topic: ClassVar[str]

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if declared := field.metadata.get(_KEY):
                declared.check(field.name, getattr(self, field.name), field.type)

    def to_dict(self) -> dict[str, Any]:
        """Returns {flag name: value} of all settings, those of groups in it too, ready for JSON."""
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
        """Gives settings the values that follow from others, while the group is made."""
        for name, value in values.items():
            object.__setattr__(self, name, value)
