"""The report of a comparison: one file that needs nothing else, whatever the data are called."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import polars as pl
import pytest

import foretaste as ft
from foretaste.cli import main
from foretaste.experiments.report.page import markdown, summary, write_report
from foretaste.experiments.report.sections import sections
from tests.conftest import synthetic
from tests.test_comparison import kept_result

HOSTILE = '<script>alert("x")</script> | **b** $a_1$ & "q"'
VOID = {"meta", "br", "link", "img"}


class Page(HTMLParser):
    """Checks that tags are closed in order, and collects texts, tags and attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.texts: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


@pytest.fixture(scope="module")
def comparison():
    """A comparison on data whose ids, titles and name try to be HTML, Markdown and formulas."""
    frame = (
        synthetic()
        .frame()
        .with_columns(
            (pl.lit(HOSTILE) + pl.col("user")).alias("user"),
            (pl.lit(HOSTILE) + pl.col("item")).alias("item"),
        )
    )
    ratings = ft.from_frame(frame, value="value")
    items = pl.DataFrame({"item": ratings.items.values}).with_columns(
        title=pl.lit(f"{HOSTILE}\n# title")
    )
    parts = ft.split(replace(ratings.with_items(items), name=HOSTILE), "random", seed=1)
    network = ft.EmbeddingModel(n_factors=4, hidden=[8], dropouts=[0.1], epochs=2)
    models = {"ease": ft.EASE(), HOSTILE: ft.EASE(l2=1.0), "network": network}
    return ft.compare_models(parts, models, k=5, seeds=2)


@pytest.fixture(scope="module")
def page(comparison, tmp_path_factory):
    html, *_ = write_report(comparison, tmp_path_factory.mktemp("report"))
    return html.read_text("utf-8")


def test_the_page_is_well_formed_and_hostile_names_stay_text(page):
    found = Page(page)
    assert "script" not in found.tags
    assert {name for name, _ in found.attributes if name.startswith("on")} == set()
    said = "".join(found.texts)
    assert said.count('<script>alert("x")</script>') > 10  # name, users, titles, a model's label


def test_the_page_fetches_nothing(page):
    found = Page(page)
    assert {"link", "img", "iframe", "object"} & set(found.tags) == set()
    outside = [v for n, v in found.attributes if n in {"src", "href", "xlink:href"} and v]
    assert all(v.startswith("#") for v in outside)
    assert not re.search(r"url\((?!#)|@import", page)


def test_the_verdict_comes_first_and_every_part_is_there(page, comparison):
    heads = re.findall(r"<h[12]>(.*?)</h[12]>", page)
    assert heads[0].startswith("Which recommender for ")
    best = next(iter(comparison.values))
    assert " makes the best lists: NDCG@5 0." in page[: page.index("<h2>")]
    assert best
    for part in (
        "The models", "Accuracy against cost", "How sure is that?", "Paired differences",
        "Who is served well?", "Beyond accuracy", "Learning curves", "Rank stability over seeds",
        "The data", "Settings",
    ):  # fmt: skip
        assert part in heads
    assert sum(head.startswith("Example: user ") for head in heads) == 3


def test_drawings_are_svg_in_the_colours_of_the_page(page):
    drawings = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(drawings) == 4
    for drawing in drawings:
        assert not re.search(r"#22303c|#9aa5ae|#c2552d", drawing)
        assert "var(--ink)" in drawing
        ElementTree.fromstring(re.sub(r"xlink:", "", drawing))  # noqa: S314  ours, just written


def test_ids_within_the_page_are_unique_among_the_drawings(page):
    per_drawing = [
        set(re.findall(r'\bid="([^"]+)"', d)) for d in re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    ]
    for one in range(len(per_drawing)):
        for other in per_drawing[:one]:
            assert not per_drawing[one] & other


def test_every_table_has_as_many_cells_as_heads(comparison):
    for section in sections(comparison):
        assert all(len(row) == len(section.header) for row in section.rows), section.title


def test_the_table_says_what_evaluate_says(page, comparison):
    for found in comparison.values.values():
        m = found["ndcg@5"]
        assert f"{m.value:.3f}<small>{m.low:.3f}–{m.high:.3f}</small>" in page


def test_the_markdown_has_the_same_tables(comparison):
    text = markdown(sections(comparison))
    assert text.startswith("# Which recommender for ")
    assert "<script>" not in text.replace("\\<script\\>", "")
    m = next(iter(comparison.values.values()))["ndcg@5"]
    assert f"{m.value:.3f} ({m.low:.3f}–{m.high:.3f})" in text
    for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
        assert len(widths) == 1


def test_the_json_has_every_number(comparison):
    said = json.loads(json.dumps(summary(comparison), allow_nan=False))
    assert list(said["models"]) == list(comparison.values)
    assert said["conclusion"][0].endswith("users).")
    assert len(said["pairs"]) == len(comparison.pairs)
    m = said["models"]["ease"]["metrics"]["ndcg@5"]
    assert m["low"] <= m["value"] <= m["high"]


def run(words: str, capsys) -> tuple[int, str, str]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("sys.argv", ["foretaste", *words.split()])
        with pytest.raises(SystemExit) as left:
            main()
    said = capsys.readouterr()
    return int(left.value.code or 0), said.out, said.err


def test_the_command_writes_the_report_and_goes_on_where_it_was(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    synthetic().frame().rename({"value": "rating"}).write_csv("ratings.csv")
    command = "compare ratings.csv --models ease --seeds 1 --k 5 --split leave-last --no-cold"
    status, out, err = run(command, capsys)
    assert status == 0
    assert "makes the best lists" in out
    assert "Report: comparison/comparison.html" in out
    assert err.count("ndcg@5") == 6
    kept = kept_result(tmp_path / "comparison", "ease")
    before = kept.stat().st_mtime_ns
    status, out, _ = run(f"{command} --json", capsys)
    assert status == 0
    assert kept.stat().st_mtime_ns == before
    assert "ease" in json.loads(out)["models"]
    assert json.loads(out)["report"] == "comparison/comparison.html"


def test_the_command_names_an_unknown_model(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    synthetic().frame().rename({"value": "rating"}).write_csv("ratings.csv")
    status, _, err = run("compare ratings.csv --models eas", capsys)
    assert status == 2
    assert "there is no model 'eas'" in err
    assert not (tmp_path / "comparison").exists()


def test_numbers_in_the_page_line_up(page):
    assert "font-variant-numeric: tabular-nums" in page
    assert np.all(["prefers-color-scheme: dark" in page, "@media print" in page])
