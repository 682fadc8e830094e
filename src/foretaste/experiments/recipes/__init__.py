"""Recipes: a TOML file says data, split, model, fields, and the number that must come out."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic

from foretaste.data.fetching import load_dataset
from foretaste.data.splitting import split
from foretaste.errors import RecipeError, UsageError, did_you_mean
from foretaste.evaluation.evaluate import Report, evaluate
from foretaste.models import model_named
from foretaste.models.base import Model, configure
from foretaste.recommending.fitting import fit
from foretaste.recommending.recommender import Recommender


class _Strict(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)


class SplitSpec(_Strict):
    """Arguments of `split`."""

    how: str
    test: float = 0.2
    seed: int = 0
    hidden: float = 0.2


class EvaluateSpec(_Strict):
    """Arguments of `evaluate`."""

    k: Annotated[list[pydantic.PositiveInt], pydantic.Field(min_length=1)] = [10]
    relevance_threshold: float | None = pydantic.Field(
        default=None, validation_alias=pydantic.AliasChoices("relevance_threshold", "relevant_from")
    )  # its name in 0.1.0
    ratings: bool = True
    ranking: bool = True


class Target(_Strict):
    """A metric, the value it must reach, and where that value comes from."""

    metric: str
    at_most: float | None = None
    at_least: float | None = None
    source: str

    @pydantic.model_validator(mode="after")
    def _one_side(self) -> Target:
        if (self.at_most is None) == (self.at_least is None):
            raise ValueError("give exactly one of at_most and at_least")
        return self

    def met(self, value: float) -> bool:
        """Whether the value reaches the target."""
        if self.at_most is not None:
            return value <= self.at_most
        return value >= (self.at_least or 0.0)


class Recipe(_Strict):
    """Everything needed to repeat a number."""

    name: str
    title: str
    data: str
    split: SplitSpec
    model: str
    fields: dict[str, Any] = {}
    seed: int = 0
    precision: Literal["float32", "bfloat16"] = "float32"
    evaluate: EvaluateSpec = EvaluateSpec()
    targets: list[Target] = []

    def configured(self) -> Model:
        """The model with the recipe's fields."""
        try:
            return configure(model_named(self.model), self.fields)
        except UsageError as error:
            raise RecipeError(error.what, where=self.name, fix=error.fix) from None


def recipe_names() -> list[str]:
    """The recipes that come with foretaste."""
    files = resources.files(__name__).iterdir()
    return sorted(f.name.removesuffix(".toml") for f in files if f.name.endswith(".toml"))


def load_recipe(name: str) -> Recipe:
    """A recipe by name, or from a TOML file by path; RecipeError names the field that is wrong."""
    if name.endswith(".toml"):
        file = Path(name)
        if not file.is_file():
            raise RecipeError("there is no such file.", where=name, fix="Name a TOML file.")
    elif name in recipe_names():
        file = resources.files(__name__) / f"{name}.toml"
    else:
        hint = did_you_mean(name, recipe_names(), else_say="There are {}.")
        raise RecipeError(f"there is no recipe {name!r}.", fix=hint)
    try:
        fields = tomllib.loads(file.read_text("utf-8"))
        return Recipe(**{"name": file.name.removesuffix(".toml"), **fields})
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"is not TOML: {error}.", where=name) from None
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        said = first["msg"].removeprefix("Value error, ")
        raise RecipeError(
            f"field {field!r}: {said[0].lower()}{said[1:]}.", where=name, fix="See docs/recipes.md."
        ) from None


@dataclass(frozen=True, eq=False)
class RecipeResult:
    """A recipe's report, its recommender, and whether every target was met."""

    recipe: Recipe
    recommender: Recommender
    report: Report

    @property
    def met(self) -> bool:
        """Whether every target was met."""
        return all(t.met(self.report.metrics[t.metric].value) for t in self.recipe.targets)

    def summary(self) -> dict[str, Any]:
        """One JSON object: recipe, metrics, target, met, seconds, memory."""
        targets = [t.model_dump(exclude_none=True) for t in self.recipe.targets]
        return {
            "recipe": self.recipe.name,
            **self.report.summary(),
            "target": targets,
            "met": self.met,
        }


def evaluate_recipe(
    recipe: Recipe, *, device: str = "auto", folder: Path | None = None,
    progress: bool | None = None,
    meter: Callable[[int, int], None] | None = None,
) -> RecipeResult:  # fmt: skip
    """Fetch, split, fit and measure as the recipe says."""
    dataset = load_dataset(recipe.data, progress=meter)
    parts = split(dataset, **recipe.split.model_dump())
    fitted = fit(
        recipe.configured(), parts.train, seed=recipe.seed, device=device,
        precision=recipe.precision, folder=folder, progress=progress,
    )  # fmt: skip
    settings = recipe.evaluate.model_dump()
    report = evaluate(fitted, parts, **{**settings, "k": tuple(settings["k"])})
    missing = [t.metric for t in recipe.targets if t.metric not in report.metrics]
    if missing:
        raise RecipeError(
            f"the target {missing[0]!r} was not measured.",
            where=recipe.name, fix=f"It measures {', '.join(report.metrics)}.",
        )  # fmt: skip
    return RecipeResult(recipe, fitted, report)
