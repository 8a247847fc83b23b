"""Parsed pages, and configurations of stages that do not run."""

import dataclasses
import html.parser
import re

import pytest

from tests.support.runs import tiny_config
from tf_simclr.config import SEMI_SUPERVISED, TRAIN_MODES, SemiSupervisedConfig


class Page(html.parser.HTMLParser):
    """Text, references and pictures of a page; checks that every mark is closed."""

    VOID = ("meta", "img")

    def __init__(self, content):
        super().__init__()
        self.text, self.references, self.images, self._open = "", [], [], []
        self.feed(content)
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self._open += [] if tag in self.VOID else [tag]
        self.references += [v for k, v in attrs if k in ("src", "href", "srcset", "data", "action")]
        self.images += [values["alt"]] if tag == "img" else []
        assert tag not in ("script", "link", "iframe", "object")

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        self.text += f"{data} "


def rows_of(table):
    return [re.findall(r"<td>(.*?)</td>", row) for row in re.findall(r"<tr>(<td>.*?)</tr>", table)]


def step_config(name, **flags):
    """The configuration of a stage that does not run, so its start and its teacher do not matter."""
    needed = {"finetune": {"checkpoint": "somewhere"}, "distill": {"teacher": "somewhere"}}
    return tiny_config("somewhere", train_mode=name, **needed.get(name, {}), **flags)


@pytest.fixture
def method(tmp_path):
    """The configuration of the whole method before any stage has run."""
    steps = {name: step_config(name, labels_per_class=5) for name in TRAIN_MODES}
    start = dataclasses.replace(steps["finetune"].train, checkpoint=None)  # The pretrained network.
    steps["finetune"] = dataclasses.replace(steps["finetune"], train=start)
    return SemiSupervisedConfig(model_dir=str(tmp_path / SEMI_SUPERVISED), **steps)
