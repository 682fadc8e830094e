"""Every recipe against the number it must reach, on the real data: `make golden`."""

from __future__ import annotations

import os

import pytest

from foretaste.data.fetching import fetch
from foretaste.errors import FetchError
from foretaste.experiments.recipes import evaluate_recipe, load_recipe, recipe_names

pytestmark = pytest.mark.golden


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_reaches_its_targets(name, capsys):
    recipe = load_recipe(name)
    folder = os.environ.get("FORETASTE_DATA")
    if not folder:
        pytest.skip("FORETASTE_DATA is not set")
    try:
        fetch(recipe.data, folder, offline=True)
    except FetchError:
        pytest.skip(f"FORETASTE_DATA ({folder}) does not hold {recipe.data}")
    result = evaluate_recipe(recipe, progress=False)
    with capsys.disabled():
        print(f"\n{name}: {result.report.protocol}; fitted in {result.report.fit_seconds:.0f} s")
        for target in recipe.targets:
            m = result.report.metrics[target.metric]
            sign, bound = (
                ("<=", target.at_most) if target.at_least is None else (">=", target.at_least)
            )
            met = "met" if target.met(m.value) else "MISSED"
            print(
                f"  {target.metric} {m.value:.4f} ({m.low:.4f}-{m.high:.4f}) {sign} {bound}: {met}"
            )
    assert result.met
