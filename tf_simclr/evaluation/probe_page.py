"""The page of one evaluation of frozen features."""

from collections.abc import Mapping
from typing import Any

from tf_simclr.metrics.confusion import Confusion
from tf_simclr.rendering import html, scores

PROBES = {"linear_eval": "Linear classifier", "knn_eval": "Nearest neighbours"}


def render_probe_page(mode: str, result: Mapping[str, Any], confusion: Confusion | None) -> str:
    """Returns the page of one evaluation of frozen features.

    Args:
        mode: `linear_eval` or `knn_eval`.
        result: the content of its file.
        confusion: None where there are too many classes.
    """
    return html.render(
        f"Frozen features on {result['dataset']}",
        f"{PROBES[mode]} on the frozen output {result['endpoint']} of {result['checkpoint']}.",
        _sections(mode, result, confusion),
    )


def _sections(mode: str, result: Mapping[str, Any], confusion: Confusion | None) -> dict[str, str]:
    """Returns the sections of the page of one evaluation of frozen features, by heading.

    Args:
        mode: `linear_eval` or `knn_eval`.
        result: the content of its file.
        confusion: None where there are too many classes.
    """
    header = ["evaluation", "learnt from", "tested on", *scores.SCORE_HEADINGS]
    row = [describe_probe(mode, result), *image_cells(result), *scores.score_cells(result, mode)]
    details = [[name, scores.DASH if value is None else str(value)] for name, value in result.items()]
    sections = {"Result": html.table(header, [row], "results")}
    if confusion is not None:
        sections["Confusion matrix"] = scores.show_confusion(str(result.get("test", mode)), confusion)
    return sections | {"What was evaluated": html.table(["name", "value"], details, "settings")}


def describe_probe(mode: str, result: Mapping[str, Any]) -> str:
    """Returns the name of an evaluation, with its protocol if it has several."""
    protocol = result.get("linear_eval_protocol")
    return f"{mode} ({protocol})" if protocol else mode


def image_cells(result: Mapping[str, Any]) -> list[str]:
    """Returns what was learned from and tested on."""
    return [str(result.get(split, scores.DASH)) for split in ("train", "test")]
