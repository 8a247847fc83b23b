"""The declaration of a setting is what is checked."""

import dataclasses

import pytest

from tf_simclr.config import UserError, all_settings
from tf_simclr.config.setting import Settings, same_as, setting


@dataclasses.dataclass(frozen=True, kw_only=True)
class Group(Settings):
    topic = "group"
    share: float = setting(0.5, "A share.", "0 (off) to 1; the paper uses 0.1", free=True)
    rate: float = setting(0.1, "A rate.", "a number above 0", limit=10)
    area: float = setting(0.5, "An area.", "a number above 0, up to 1 (all)")
    decay: float = setting(0.9, "A decay.", "0 or more, less than 1")
    size: int = setting(32, "A size.", "at least 8 pixels", limit=64)
    wait: int = setting(0, "A wait.", "0 (no limit) or more seconds")
    kind: str = setting("a", "A kind.", ("a", "b"))
    kinds: str = setting("a,b", "Kinds.", ("a", "b"), several=True)
    text: str | None = setting(None, "A text.", pattern=r"\w+\.json", fix="name a file such as a.json")
    plain: str | None = setting(None, "Any text.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tool(Settings):
    topic = "tool"
    text: str | None = same_as(Group, "text", required=True)
    size: int = same_as(Group, "size", default=9)


@pytest.mark.parametrize(
    ("name", "good", "bad", "fix"),
    [
        ("share", [0, 1], [-0.1, 1.1], "use 0 (off) to 1; the paper uses 0.1."),
        ("rate", [1e-9, 10], [0, -1], "use a number above 0."),
        ("rate", [], [10.5], "use at most 10."),
        ("rate", [], ["1", None], "use a number."),
        ("size", [], [8.0, "8"], "use a whole number."),
        ("text", [], [3], "use text."),
        ("rate", [], [float("nan"), float("inf")], "use a finite number."),
        ("area", [1e-9, 1], [0, 1.1], "use a number above 0, up to 1 (all)."),
        ("decay", [0, 0.999], [-0.1, 1], "use 0 or more, less than 1."),
        ("size", [8, 64], [7, -1], "use at least 8 pixels."),
        ("size", [], [65], "use at most 64."),
        ("wait", [0, 2**20], [-1], "use 0 (no limit) or more seconds."),
        ("wait", [], [2**20 + 1], "use at most 1048576."),
        ("kind", ["b"], ["c", ""], "use one of a, b."),
        ("kinds", ["b", "b, a"], ["a,c", ""], "use one or more of a, b, with commas between them."),
        ("text", ["x.json", None], ["x.npz", ""], "name a file such as a.json."),
        ("plain", ["", None, "x"], [], ""),
    ],
)
def test_value_is_held_to_what_its_declaration_says(name, good, bad, fix):
    for value in good:
        assert getattr(Group(**{name: value}), name) == value
    for value in bad:
        with pytest.raises(UserError) as error:
            Group(**{name: value})
        assert str(error.value) == f"--{name}={value}: {fix}"


@pytest.mark.parametrize("value", [None, ""])
def test_setting_of_another_group_can_be_required_and_have_its_own_default(value):
    assert Tool(text="a.json").size == 9
    with pytest.raises(UserError, match=r"^--text: not given; name a file such as a.json\.$"):
        Tool(text=value)
    with pytest.raises(UserError, match="use at least 8 pixels"):
        Tool(text="a.json", size=7)


def test_bounds_that_are_no_bounds_are_an_error_of_the_program():
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Wrong(Settings):
        size: int = setting(1, "A size.", "some")

    with pytest.raises(ValueError, match="no bounds of a number: some"):
        Wrong()


def test_every_default_is_a_value_of_its_setting():
    for name, declared in all_settings().items():
        if not declared.required and declared.default is not None:
            declared.check(name, declared.default, declared.kind)


@pytest.mark.parametrize(
    "name", [name for name, declared in all_settings().items() if type(declared.default) in (int, float)]
)
def test_every_number_refuses_what_makes_no_sense(name):
    declared = all_settings()[name]
    for value in (-7, 10**30, float("nan")):
        if (name, value) != ("ft_proj_selector", -7):  # Its bounds depend on the projection head.
            with pytest.raises(UserError, match=rf"^--{name}={value}: use ."):
                declared.check(name, value, declared.kind)
