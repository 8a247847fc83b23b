"""Plots of any classes, curves and features; HTML escapes all text."""

import numpy as np
import pytest

from tf_simclr.rendering import html, plots

PNG = b"\x89PNG"


@pytest.mark.parametrize(
    "names", [("a", "b"), ("_hidden", "$x_{$"), ("猫", "狗"), ("a long name " * 5, "two\nlines"), ("猫",) * 21]
)
def test_classes_of_any_name_and_number_are_drawn(names):
    assert plots.plot_confusion(np.eye(len(names), dtype=int), names).startswith(PNG)
    points, legend = np.random.default_rng(0).normal(size=(len(names) + 1, 2)), names[:20]
    labels = np.arange(-1, len(names))
    assert plots.plot_points(points, labels, len(names), legend=legend).startswith(PNG)


def test_map_is_drawn_without_classes():
    assert plots.plot_points(np.zeros([3, 2]), np.full(3, -1), 0).startswith(PNG)


def test_class_names_become_short_and_numbers_if_the_font_lacks_a_letter():
    assert plots.drawn_names(["猫", "dog"]) == ["0", "1"]
    assert plots.drawn_names(["über\tall", "x" * 30]) == ["über all", "x" * 23 + "…"]


@pytest.mark.parametrize(("what", "chance"), [("loss", ("chance", 5.0)), ("accuracy", None)])
def test_curves_are_drawn_if_there_are_any(what, chance):
    points = [(step, 1 / step) for step in range(1, 40)]
    assert plots.plot_curves(what, dict.fromkeys(plots.CURVES[what], points), chance).startswith(PNG)
    assert plots.plot_curves(what, {"train/images_per_second": points}, chance) is None


def test_twenty_classes_look_different():
    looks = plots.class_looks([str(number) for number in range(20)])
    assert len({look[:2] for look in looks}) == 20


def test_projection_of_few_images_repeats_and_keeps_heaps_apart():
    features = np.random.default_rng(0).normal(size=(12, 3)).astype(np.float32)
    features[: len(features) // 2] += 20
    points = plots.project(features)
    assert points.shape == (len(features), 2)
    np.testing.assert_array_equal(points, plots.project(features))
    first, second = np.split(points, 2)
    apart = np.linalg.norm(first.mean(0) - second.mean(0))
    assert apart > max(first.std(), second.std())


def test_all_text_is_escaped():
    evil = "<script>alert('&')</script>"
    for mark in (html.text, html.subheading, html.code):
        assert "<script" not in mark(evil)
    assert "<script" not in html.table([evil], [[evil]], "results")
    assert "<script" not in html.legend([("o", "#000000", evil)])
    assert "<script" not in html.picture(PNG, evil)
