"""Pictures are files that open, of a sensible size, and say what they show."""

from __future__ import annotations

from xml.etree import ElementTree

import matplotlib.image
import numpy as np
import polars as pl
import pytest

from foretaste.experiments.report.pictures import cold_start_curve, learning_curve

CURVE = [
    {"epoch": epoch, "train_loss": 1.2 / epoch, "validation": valid}
    for epoch, valid in [(1, 1.01), (2, 0.93), (3, 0.9123), (4, 0.95)]
]


def words(svg):
    """Every text of an SVG file; letters drawn as outlines would not be found."""
    return [e.text for e in ElementTree.parse(svg).iter("{http://www.w3.org/2000/svg}text")]  # noqa: S314


@pytest.mark.parametrize("epochs", [1, 2, 4])
def test_a_learning_curve_is_two_pictures_of_a_sensible_size(tmp_path, epochs):
    png, svg = learning_curve(CURVE[:epochs], tmp_path / "deep" / "curve", title="a model")
    assert png == tmp_path / "deep" / "curve.png"
    assert svg == tmp_path / "deep" / "curve.svg"
    pixels = matplotlib.image.imread(png)
    height, width = pixels.shape[:2]
    assert (width, height) == (1050, 600)
    assert 0.01 < np.mean(pixels[..., :3].min(axis=2) < 0.9) < 0.5  # some ink, mostly paper
    assert 5_000 < svg.stat().st_size < 200_000


def test_the_labels_can_be_read_in_the_svg(tmp_path):
    _, svg = learning_curve(
        CURVE, tmp_path / "curve", title="our $net$ on a_b", baselines={"bias": 0.9421, "mean": 1.1}
    )
    said = words(svg)
    for label in (
        "our $net$ on a_b", "epoch", "RMSE", "validation", "kept: epoch 3, 0.9123", "bias 0.9421",
        "mean 1.1000",
    ):  # fmt: skip
        assert label in said


def test_epochs_are_whole_numbers_on_the_axis(tmp_path):
    _, svg = learning_curve(CURVE[:2], tmp_path / "curve", title="a model")
    ticks = [text for text in words(svg) if text and text.replace(".", "").isdigit()]
    assert {"1", "2"} <= set(ticks)
    assert "1.5" not in ticks


def test_the_same_curve_is_the_same_file(tmp_path):
    a = learning_curve(CURVE, tmp_path / "a", title="a model")
    b = learning_curve(CURVE, tmp_path / "b", title="a model")
    for first, second in zip(a, b, strict=True):
        assert first.read_bytes() == second.read_bytes()


def test_a_title_with_dollars_is_not_taken_for_a_formula(tmp_path):
    learning_curve(CURVE, tmp_path / "curve", title="costs $5 and $x_{")


def test_an_older_picture_is_replaced(tmp_path):
    for curve in (CURVE[:1], CURVE):
        _, svg = learning_curve(curve, tmp_path / "curve", title="a model")
    assert "kept: epoch 3, 0.9123" in words(svg)


def test_a_cold_start_picture_names_models_cases_and_metric(tmp_path):
    rows = [
        (model, case, "ndcg@10", 0.1 * n, 0.05 * n, 0.2 * n)
        for n, case in enumerate(["0", "3", "all"])
        for model in ("ease", "als")
    ]
    schema = ["model", "case", "metric", "value", "low", "high"]
    frame = pl.DataFrame(rows, schema=schema, orient="row")
    png, svg = cold_start_curve(frame, "ndcg@10", tmp_path / "cold", title="New users")
    assert matplotlib.image.imread(png).shape[:2] == (600, 1050)
    said = words(svg)
    for label in ("New users", "ndcg@10", "interactions shown", "0", "3", "all", "ease", "als"):
        assert label in said
