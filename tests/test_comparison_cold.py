"""Cold starts of a comparison: what was found, kept, told and drawn."""

from __future__ import annotations

import json
from dataclasses import replace

import polars as pl
import pytest

import foretaste as ft
from foretaste.cli import main
from foretaste.experiments import entrants
from foretaste.experiments.conclusion import conclusion
from foretaste.experiments.entrants import cold_entrants, plain_similarity
from foretaste.experiments.report.page import summary, write_report
from foretaste.experiments.report.sections import _cold, sections
from tests.test_cold_start import worlds
from tests.test_comparison import kept_result

MODELS = {"popularity": ft.Popularity(), "als": ft.ALS(n_factors=4), "ease": ft.EASE(l2=1.0)}


@pytest.fixture(scope="module")
def parts():
    return ft.split(worlds(), "random", test=0.1, seed=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("cold")


@pytest.fixture(scope="module")
def comparison(parts, folder):
    return ft.compare_models(parts, MODELS, k=5, seeds=1, folder=folder)


@pytest.fixture(scope="module")
def found(comparison, parts, folder):
    lines: list[str] = []
    found = ft.compare_models(
        parts, MODELS, cold_start=True, k=5, seeds=1, folder=folder, say=lines.append
    )
    assert any(line.startswith("als, new users: ndcg@5 0 ") for line in lines)
    return found


def test_new_users_are_measured_as_cold_users_measures_them(found, parts):
    direct = ft.evaluate_cold_users({"als": ft.ALS(n_factors=4)}, parts.train, k=5, test=0.2)
    assert found.cold["users"].frame().filter(model="als").equals(direct.frame())
    assert found.cold["users"].protocol == direct.protocol
    assert found.cold["users"].users.equals(direct.users)
    assert {model for model, _ in found.cold["users"].tallies} == {
        "random", "popularity", "recent-popularity", "als", "ease",
    }  # fmt: skip


def test_where_no_model_tells_new_items_aligned_als_stands_in(found, parts):
    direct = ft.evaluate_cold_items({"aligned-als": ft.AlignedALS()}, parts.train, k=5, test=0.2)
    assert found.cold["items"].frame().filter(model="aligned-als").equals(direct.frame())
    taking_part = {model for model, _ in found.cold["items"].tallies}
    assert taking_part == {"random", "popularity", "aligned-als"}
    assert found.not_cold["items"] == ["Cannot tell new items by their columns: als, ease."]


def test_the_floors_of_new_items_are_similarities_where_there_is_something_to_compare(comparison):
    train = comparison.parts.train
    train = train.with_items(train.item_frame.rename({"kind": "genres"}))
    assert list(plain_similarity(train)) == ["metadata-similarity"]
    runs = dict.fromkeys(["popularity", "als", "metadata-similarity", "aligned"], ())
    models = comparison.models | plain_similarity(train) | {"aligned": ft.AlignedALS()}
    described = replace(
        comparison, parts=replace(comparison.parts, train=train), models=models, runs=runs
    )
    assert "metadata-similarity" in described.baselines
    chosen, _ = cold_entrants(train, {label: models[label] for label in runs}, "items", slow=False)
    assert list(chosen) == ["popularity", "metadata-similarity", "aligned"]


def test_a_comparison_goes_on_with_the_cold_starts_that_are_missing(parts, found, folder):
    kept = kept_result(folder, "als_new_users")
    lost = kept_result(folder, "aligned-als_new_items")
    before = kept.stat().st_mtime_ns
    lost.unlink()
    again = ft.compare_models(parts, MODELS, cold_start=True, k=5, seeds=1, folder=folder)
    assert kept.stat().st_mtime_ns == before
    assert lost.exists()
    for kind in ("users", "items"):
        assert again.cold[kind].frame().equals(found.cold[kind].frame())


def test_slow_models_stay_out_until_asked_for(comparison, monkeypatch):
    monkeypatch.setattr(entrants, "COLD_SECONDS", 0.005)  # popularity takes 0.003
    models = {label: comparison.models[label] for label in comparison.runs}
    models |= {"als": ft.ALS(), "ease": ft.EASE()}
    chosen, notes = cold_entrants(comparison.parts.train, models, "users", slow=False)
    assert list(chosen) == ["random", "popularity", "recent-popularity"]
    assert notes == ["Slow to fit, not in until asked for (--cold): als, ease."]
    chosen, notes = cold_entrants(comparison.parts.train, models, "users", slow=True)
    assert list(chosen)[-2:] == ["als", "ease"]
    assert not notes


def test_what_cannot_be_measured_is_a_note(comparison):
    bare = replace(worlds(n_users=30), item_table=None)
    assert bare.interactions.time_r is not None
    short = bare.take(bare.interactions.time_r < 6000)  # six items of each: ten cannot be shown
    runs = {"popularity": comparison.runs["popularity"]}
    with pytest.warns(
        DeprecationWarning, match=r"add_cold_starts goes with foretaste 0\.3\. Use co"
    ):
        found = ft.add_cold_starts(replace(comparison, parts=ft.split(short, seed=1), runs=runs))
    assert not found.cold
    assert found.not_cold["items"] == ["Nothing is known of items but who had them (--items)."]
    assert found.not_cold["users"] == [
        "popularity failed: frame: no held-out user has 10 interactions to show. Choose shorter "
        "lengths, or hold out more users."
    ]
    told = _cold(found)
    assert [section.words for section in told] == [["Not measured here."]] * 2


def test_the_report_has_the_curve_the_tables_and_the_sentences(found, tmp_path):
    users, items = (s for s in sections(found) if s.title.startswith(("New users:", "New items:")))
    assert users.header == ["model", "0", "1", "3", "10", "all", "3 of all"]
    assert users.picture.startswith("<svg")
    assert all(f">{label}</text>" in users.picture for label in ("als", "ease", "popularity"))
    in_rows = {row[0][0] if isinstance(row[0], tuple) else row[0]: row for row in users.rows}
    frame = found.cold["users"].frame().filter(model="als", metric="ndcg@5", case="3")
    value, low, high = frame.select("value", "low", "high").row(0)
    assert in_rows["als"][3] == (f"{value:.3f}", f"{low:.3f}–{high:.3f}")
    share = found.cold["users"].ratio("ndcg@5", ("als", "3"), ("als", "all"))
    assert in_rows["als"][6] == (f"{share.value:.0%}", f"{share.low:.0%}–{share.high:.0%}")
    assert in_rows["popularity"][6] == "–"
    assert items.rows[0][0] == "aligned-als"
    assert len(items.rows) == 3
    said = conclusion(found)
    assert any(s.startswith("New users: after 3 interactions ") for s in said)
    assert any(s.startswith("New items: aligned-als tells them apart best, ") for s in said)
    page, text, _ = write_report(found, tmp_path)
    for section in (users, items):
        assert section.title in page.read_text()
        assert section.title in text.read_text()
    kept = json.loads(json.dumps(summary(found), allow_nan=False, default=str))["cold"]
    assert set(kept) == {"new users", "new items"}
    assert len(kept["new users"]["rows"]) == len(found.cold["users"].frame())


def test_a_comparison_without_cold_starts_says_nothing_of_them(comparison):
    assert not [s for s in sections(comparison) if s.title.startswith("New ")]
    assert summary(comparison)["cold"] == {}


def test_the_command_joins_items_and_measures_cold_starts_unless_told_not_to(
    tmp_path, monkeypatch, capfd
):
    monkeypatch.chdir(tmp_path)
    data = worlds()
    data.frame().drop("time").write_csv("clicks.csv")
    assert data.item_table is not None
    data.item_table.select("item", genres=pl.col("kind")).write_csv("films.csv")

    def run(line: str) -> dict:
        monkeypatch.setattr("sys.argv", ["foretaste", *line.split()])
        with pytest.raises(SystemExit) as left:
            main()
        said = capfd.readouterr()
        assert not left.value.code, said.err
        return json.loads(said.out)

    line = "compare clicks.csv --items films.csv --models popularity --seeds 1 --k 5 --json"
    assert run(f"{line} --no-cold")["cold"] == {}
    rows = run(line)["cold"]["new items"]["rows"]
    assert {row["model"] for row in rows} == {
        "random", "popularity", "metadata-similarity", "aligned-als",
    }  # fmt: skip
