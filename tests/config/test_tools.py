"""Settings of tools refuse what makes no sense."""

import pytest

from tests.config.refusal import assert_refused
from tf_simclr import config
from tf_simclr.config import UserError

TOOL_SETTINGS = {
    "export": {"checkpoint": "run"},
    "import": {"checkpoint": "file", "model_dir": "run"},
    "embed": {"checkpoint": "run", "output": "features.npz"},
    "linear_eval": {"checkpoint": "run"},
    "knn_eval": {"checkpoint": "run"},
    "transfer": {"checkpoint": "run", "datasets": "digits"},
    "robustness": {"checkpoint": "run"},
    "benchmark": {},
    "prepare": {"output": "records"},
    "preview": {"output": "views.png"},
}


def make_tool(name, **settings):
    return config.TOOLS[name](**(TOOL_SETTINGS[name] | settings))


@pytest.mark.parametrize(("tool", "name"), [(t, name) for t, given in TOOL_SETTINGS.items() for name in given])
@pytest.mark.parametrize("value", [None, ""])
def test_tool_says_what_is_not_given(tool, name, value):
    with pytest.raises(UserError, match=f"^--{name}: not given; name .*"):
        make_tool(tool, **{name: value})


@pytest.mark.parametrize(
    ("tool", "name", "value"),
    [
        ("export", "export_formats", "saved_model,keras"),
        ("export", "export_formats", ""),
        ("embed", "output", "features.csv"),
        ("embed", "output", "features"),
        ("embed", "split", ""),
        ("embed", "endpoint", ""),
        ("linear_eval", "linear_eval_protocol", "adam"),
        ("linear_eval", "output", "features.npz"),
        ("knn_eval", "endpoint", ""),
        ("benchmark", "benchmark", "training"),
        ("preview", "output", "views.jpg"),
        ("preview", "output", "s3://bucket/x.png"),
    ],
)
def test_tool_refuses_what_it_does_not_know(tool, name, value):
    assert_refused(lambda: make_tool(tool, **{name: value}), name, value)


@pytest.mark.parametrize(
    ("name", "settings", "fix"),
    [
        ("benchmark_repeats", {"benchmark_repeats": 0}, "use at least 1"),
        ("benchmark_trace_only", {"benchmark_trace_only": True, "benchmark": "step"}, "--benchmark=startup"),
        ("benchmark_batch_size", {"benchmark_batch_size": 1, "benchmark": "step"}, "at least 2 images"),
        (
            "benchmark_batch_size",
            {"benchmark_batch_size": 6, "benchmark": "step", "contrast": config.ContrastConfig(contrast_chunks=4)},
            "use a multiple of 4",
        ),
    ],
)
def test_benchmark_refuses_what_it_cannot_measure(name, settings, fix):
    assert_refused(lambda: make_tool("benchmark", **settings), name, settings[name], fix)


def test_benchmark_has_its_own_number_of_repetitions():
    assert [make_tool("benchmark", benchmark=name).repeats for name in ("step", "inference")] == [7, 15]
    assert make_tool("benchmark", benchmark_repeats=3).repeats == 3


def test_export_formats_are_taken_once_each():
    assert make_tool("export", export_formats="folded, onnx,folded").formats == ("folded", "onnx")
