"""Page of one evaluation of frozen features."""

from collections.abc import Mapping
from typing import Any

from tf_simclr.metrics.confusion import Confusion
from tf_simclr.rendering import html, scores

PROBES = {"linear_eval": "Linear classifier", "knn_eval": "Nearest neighbours"}


def render_probe_page(mode: str, result: Mapping[str, Any], confusion: Confusion | None) -> str:
    """Returns the page of one evaluation of frozen features.

    Args:
        mode: `linear_eval` or `knn_eval`.
        result: content of the result file.
        confusion: confusion matrix; None if there are too many classes.
    """
    header = ["evaluation", "learnt from", "tested on", *scores.SCORE_HEADINGS]
    row = [describe_probe(mode, result), *image_cells(result), *scores.score_cells(result, mode)]
    details = [[name, scores.DASH if value is None else str(value)] for name, value in result.items()]
    sections = {"Result": html.table(header, [row], "results")}
    if confusion is not None:
        sections["Confusion matrix"] = scores.show_confusion(str(result.get("test", mode)), confusion)
    sections["What was evaluated"] = html.table(["name", "value"], details, "settings")
    about = f"{PROBES[mode]} on the frozen output {result['endpoint']} of {result['checkpoint']}."
    return html.render(f"Frozen features on {result['dataset']}", about, sections)


def describe_probe(mode: str, result: Mapping[str, Any]) -> str:
    """Returns the name of an evaluation, with its protocol if it has several."""
    protocol = result.get("linear_eval_protocol")
    return f"{mode} ({protocol})" if protocol else mode


def image_cells(result: Mapping[str, Any]) -> list[str]:
    """Returns the names of the images to learn from and of the test images."""
    return [str(result.get(split, scores.DASH)) for split in ("train", "test")]
