"""Recipes: what is in the package is well formed, and what is wrong in one is said by name."""

from __future__ import annotations

import pytest

from foretaste.data.canonical import SPLITS, canonical_splits
from foretaste.data.catalog import CATALOG
from foretaste.errors import RecipeError
from foretaste.evaluation.evaluate import Report
from foretaste.evaluation.metrics import RANKING
from foretaste.experiments.recipes import (
    Recipe,
    RecipeResult,
    evaluate_recipe,
    load_recipe,
    recipe_names,
)
from foretaste.models import MODELS
from foretaste.models.base import PredictsRatings
from foretaste.models.baselines import Bias

SMALL = """
title = "A small one"
data = "ml-100k"
split = { how = "random", test = 0.3, seed = 4 }
model = "bias"
evaluate = { k = [3] }

[fields]
l2_user = 7.0

[[targets]]
metric = "rmse"
at_most = 1.1
source = "a test"
"""


def written(folder, text, name="small.toml"):
    path = folder / name
    path.write_text(text)
    return str(path)


def refused(folder, text):
    """What is said of a recipe, without the path."""
    path = written(folder, text)
    with pytest.raises(RecipeError) as error:
        load_recipe(path).configured()
    return str(error.value).replace(f"{path}: ", "small: ")


def test_the_package_has_recipes_and_the_two_of_the_article_are_among_them():
    assert {"ml-1m-article-embedding-net", "ml-1m-embedding-net"} <= set(recipe_names())


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_in_the_package_names_things_that_exist(name):
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.title
    assert recipe.data in CATALOG
    assert CATALOG[recipe.data].read is not None
    assert recipe.split.how in {*SPLITS, *canonical_splits(recipe.data)}
    fields = recipe.configured().hyperparameters()
    assert recipe.fields.keys() <= fields.keys()


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_is_named_after_data_split_and_model(name):
    """A variant of the model may follow: bayesian-mf-no-drift."""
    recipe = load_recipe(name)
    before, model, _ = name.partition(f"-{recipe.model}")
    assert model, f"{name} does not name its model, {recipe.model}"
    data = before.removesuffix(f"-{recipe.split.how}")
    assert recipe.data == data or recipe.data.startswith(f"{data}-")


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_has_a_target_with_a_source_that_will_be_measured(name):
    recipe = load_recipe(name)
    assert recipe.targets
    for target in recipe.targets:
        assert len(target.source) > 10
        metric, _, k = target.metric.partition("@")
        if metric in RANKING:
            assert recipe.evaluate.ranking
            assert int(k) in recipe.evaluate.k
        else:
            assert recipe.evaluate.ratings
            assert issubclass(MODELS[recipe.model], PredictsRatings)


def test_a_recipe_is_read_from_a_path_and_named_after_its_file(tmp_path):
    recipe = load_recipe(written(tmp_path, SMALL))
    assert recipe.name == "small"
    assert recipe.split.model_dump() == {"how": "random", "test": 0.3, "seed": 4, "hidden": 0.2}
    assert recipe.configured().hyperparameters()["l2_user"] == 7.0
    assert recipe.configured().hyperparameters()["l2_item"] == Bias().l2_item


def test_an_unknown_recipe_suggests_the_nearest_or_lists_all():
    with pytest.raises(RecipeError) as error:
        load_recipe("ml-1m-embeding-net")
    assert str(error.value) == (
        "there is no recipe 'ml-1m-embeding-net'. Did you mean ml-1m-embedding-net?"
    )
    with pytest.raises(RecipeError) as error:
        load_recipe("x")
    assert str(error.value) == f"there is no recipe 'x'. There are {', '.join(recipe_names())}."


def test_a_recipe_file_that_is_not_there_or_not_toml_says_so(tmp_path):
    path = str(tmp_path / "none.toml")
    with pytest.raises(RecipeError) as error:
        load_recipe(path)
    assert str(error.value) == f"{path}: there is no such file. Name a TOML file."
    assert refused(tmp_path, "title = ").startswith("small: is not TOML: Invalid value (at ")
    latin = tmp_path / "latin.toml"
    latin.write_bytes('title = "é"'.encode("latin-1"))
    with pytest.raises(RecipeError, match=r"latin\.toml: is not TOML: 'utf-8' codec can't decode"):
        load_recipe(str(latin))


def test_typos_are_errors_that_name_the_field(tmp_path):
    see = "See docs/recipes.md."
    assert refused(tmp_path, SMALL.replace("data =", "date =")) == (
        f"small: field 'data': field required. {see}"
    )
    assert refused(tmp_path, "modle = 'bias'\n" + SMALL) == (
        f"small: field 'modle': extra inputs are not permitted. {see}"
    )
    assert refused(tmp_path, SMALL.replace("test =", "tset =")) == (
        f"small: field 'split.tset': extra inputs are not permitted. {see}"
    )
    assert refused(tmp_path, SMALL.replace("[3]", "[0]")) == (
        f"small: field 'evaluate.k.0': input should be greater than 0. {see}"
    )
    assert refused(tmp_path, SMALL.replace("l2_user", "l2_usr")) == (
        "small: bias has no field 'l2_usr'. Did you mean l2_user?"
    )
    assert refused(tmp_path, SMALL.replace("7.0", "'much'")).startswith(
        "small: bias: field 'l2_user': got 'much'. Input should be a valid number"
    )
    assert refused(tmp_path, SMALL.replace('"bias"', '"biass"')) == (
        "small: there is no model 'biass'. Did you mean bias?"
    )


@pytest.mark.parametrize("bounds", ["", "at_most = 1.1\nat_least = 0.5"])
def test_a_target_has_exactly_one_bound(tmp_path, bounds):
    assert refused(tmp_path, SMALL.replace("at_most = 1.1", bounds)) == (
        "small: field 'targets.0': give exactly one of at_most and at_least. See docs/recipes.md."
    )


def test_a_target_needs_a_source(tmp_path):
    assert "field 'targets.0.source': field required." in refused(
        tmp_path, SMALL.replace('source = "a test"', "")
    )


def test_targets_are_met_at_their_bound_and_missed_beyond(tmp_path):
    both = SMALL + '\n[[targets]]\nmetric = "recall@3"\nat_least = 0.2\nsource = "a test"\n'
    error, recall = load_recipe(written(tmp_path, both)).targets
    assert [error.met(x) for x in (1.0, 1.1, 1.1001, float("nan"))] == [True, True, False, False]
    assert [recall.met(x) for x in (0.3, 0.2, 0.1999, float("nan"))] == [True, True, False, False]


@pytest.fixture
def served(monkeypatch, ratings):
    """The synthetic ratings in the place of every public data set."""
    monkeypatch.setattr(
        "foretaste.experiments.recipes.load_dataset", lambda name, progress=None: ratings
    )


def result_of(folder, text):
    return evaluate_recipe(load_recipe(written(folder, text)), progress=False)


@pytest.mark.usefixtures("served")
def test_a_recipe_is_evaluated_as_it_says(tmp_path):
    result = result_of(tmp_path, SMALL)
    assert isinstance(result, RecipeResult)
    assert isinstance(result.report, Report)
    assert result.report.protocol == "random 70%/30% of interactions, seed 4"
    assert set(result.report.metrics) == {"rmse", "mae"} | {f"{name}@3" for name in RANKING}
    summary = result.summary()
    assert summary["recipe"] == "small"
    assert summary["target"] == [{"metric": "rmse", "at_most": 1.1, "source": "a test"}]
    assert summary["met"] is result.met is True
    assert {"metrics", "fit_seconds", "score_seconds", "peak_memory_bytes"} <= summary.keys()


@pytest.mark.usefixtures("served")
def test_a_recipe_is_met_only_if_every_target_is(tmp_path):
    assert not result_of(tmp_path, SMALL.replace("1.1", "0.1")).met
    second = '\n[[targets]]\nmetric = "mrr@3"\nat_least = 0.99\nsource = "a test"\n'
    assert not result_of(tmp_path, SMALL + second).met
    assert result_of(tmp_path, SMALL + second.replace("0.99", "0.01")).met


@pytest.mark.usefixtures("served")
def test_a_target_that_nothing_measures_is_an_error(tmp_path):
    with pytest.raises(RecipeError) as error:
        result_of(tmp_path, SMALL.replace('"rmse"', '"rsme"'))
    assert str(error.value).startswith(
        "small: the target 'rsme' was not measured. It measures rmse, "
    )


def test_a_recipe_without_targets_is_met():
    recipe = Recipe(name="x", title="x", data="ml-100k", split={"how": "random"}, model="bias")  # type: ignore[arg-type]
    assert RecipeResult(recipe, None, None).met  # type: ignore[arg-type]
