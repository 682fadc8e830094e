from __future__ import annotations

import polars as pl
import pytest

import foretaste as ft
from foretaste.errors import DataError, ModelError, UsageError
from foretaste.recommending import export
from tests import processes


@pytest.fixture(scope="module")
def fitted(ratings):
    table = pl.DataFrame({"item": [f"i{i}" for i in range(40)], "year": range(1980, 2020)})
    return ft.fit(ft.ALS(n_factors=4), ratings.with_items(table), progress=False)


@pytest.mark.parametrize("chunk", [1000, 7])
def test_the_file_holds_the_lists_of_every_user(fitted, tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(export, "CHUNK_USERS", chunk)
    out = fitted.export(tmp_path / "recs.parquet", 6, where="year >= 1990", exclude=["i15"])
    users = fitted.dataset.users.values
    asked = fitted.recommend(users=users.to_list(), k=6, where="year >= 1990", exclude=["i15"])
    found = pl.read_parquet(out)
    assert found.columns == ["user", "item", "score", "rank"]
    assert found.drop("score").equals(asked.select("user", "item", "rank"))
    assert (found["score"] - asked["score"]).abs().max() < 1e-6
    assert not list(tmp_path.glob("*.new"))


def test_users_with_too_few_candidates_have_fewer_lines(fitted, tmp_path):
    out = fitted.export(tmp_path / "recs.parquet", 10, where="year >= 2018")
    assert (pl.read_parquet(out).group_by("user").len()["len"] <= 2).all()


def test_a_run_killed_half_way_leaves_the_older_file(fitted, tmp_path):
    bundle, out = fitted.save(tmp_path / "bundle"), tmp_path / "recs.parquet"
    fitted.export(out, 1)
    before = out.read_bytes()
    with processes.started(processes.recommend_slowly, bundle, out):
        processes.wait_for(lambda: any(tmp_path.glob("*.new")))
    assert out.read_bytes() == before
    fitted.export(out, 2)  # what the killed one left is in nobody's way
    assert len(pl.read_parquet(out)) == 2 * len(fitted.dataset.users)


def test_two_runs_at_once_do_not_mix_and_the_last_to_end_stays(fitted, tmp_path, monkeypatch):
    out, lists, found = tmp_path / "recs.parquet", fitted.answer, []

    def while_another_runs(*args, **options):
        monkeypatch.setattr(fitted, "answer", lists)
        found.append(pl.read_parquet(fitted.export(out, 1)))
        return lists(*args, **options)

    monkeypatch.setattr(fitted, "answer", while_another_runs)
    fitted.export(out, 2)
    assert len(pl.read_parquet(out)) == 2 * len(found[0]) == 2 * len(fitted.dataset.users)
    assert not list(tmp_path.glob("*.new"))


def test_an_error_on_the_way_is_told_as_it_is_and_leaves_nothing(fitted, tmp_path, monkeypatch):
    monkeypatch.setattr(fitted.model, "item_id_", fitted.model.item_id_ * float("nan"))
    with pytest.raises(ModelError, match="the model scored NaN"):
        fitted.export(tmp_path / "recs.parquet")
    assert not list(tmp_path.iterdir())


def test_wrong_questions_are_refused_before_anything_is_written(fitted, tmp_path):
    with pytest.raises(UsageError, match="there is no column 'yeer'"):
        fitted.export(tmp_path / "recs.parquet", where="yeer > 1")
    with pytest.raises(UsageError, match="k=0"):
        fitted.export(tmp_path / "recs.parquet", 0)
    with pytest.raises(DataError, match=r"recs\.parquet: cannot be written \(No such file"):
        fitted.export(tmp_path / "nowhere" / "recs.parquet")
    assert not list(tmp_path.iterdir())
