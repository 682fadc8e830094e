"""Cold starts of a comparison: the same models with new users and with new items."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from foretaste.data.features import ItemFeatures
from foretaste.evaluation.cold_start import Case, ColdStart
from foretaste.evaluation.statistics import Tally
from foretaste.experiments.comparison import Comparison, file_name, run, workshop
from foretaste.experiments.entrants import RECENT, plain_similarity
from foretaste.experiments.trials import Run, write_parts
from foretaste.models.als import AlignedALS
from foretaste.models.base import Model, PlacesNewItems, Shape
from foretaste.models.baselines import Popularity, Random

METRIC = {"users": "ndcg", "items": "recall"}  # at k: what each kind is judged by
CASES = {
    "users": ("0", "1", "3", "10", "all"),  # interactions shown
    "items": ("cold", "warm", "cold in all", "warm in all"),  # what must be found among what
}
FEW = "3"  # interactions, after which people should be served well
SHARE = 0.2  # of users, or of items, that are held out of train
SECONDS = 15.0  # the estimate of one fit, above which a model must be asked for


def add_cold_starts(
    comparison: Comparison, *, every: bool = False, device: str = "auto",
    folder: str | Path | None = None, say: Callable[[str], None] | None = None,
) -> Comparison:  # fmt: skip
    """The comparison with its models measured on new users and new items, held out of train.

    A fifth of the users, then of the items, is held out, and every model fitted to the rest once,
    in a process of its own.  Only models that tell items by their columns, and the baselines, take
    part for items; aligned ALS does where no model of the comparison can.  every: slow models too,
    not only those whose fit is estimated at SECONDS or less.
    folder, say: as of `run_comparison`, whose runs may lie in the same folder.
    """
    if folder is None:
        with tempfile.TemporaryDirectory() as kept:
            return add_cold_starts(comparison, every=every, device=device, folder=kept, say=say)
    place, train = Path(folder), comparison.parts.train
    shared = {
        "data": train.fingerprint, "k": comparison.k, "share": SHARE, "seed": 0, "device": device,
    }  # fmt: skip
    write_parts(place / "parts", comparison.parts)
    cold, not_cold = {}, {}
    with workshop(place / "parts") as ask:
        for kind in CASES:
            chosen, notes = cold_entrants(comparison, kind, every)
            runs: dict[str, Run] = {}
            for label, model in chosen.items():
                task = {"cold": kind, "model": model.name, "fields": model.hyperparameters()}
                found = run(ask, place / "runs" / f"{file_name(label)}-new-{kind}", task | shared)
                if found.error:
                    notes.append(f"{label} failed: {found.error}")
                else:
                    runs[label] = found
                if say is not None:
                    say(f"{label}, new {kind}: {found.error or _line(found, kind, comparison.k)}")
            not_cold[kind] = notes
            if runs:
                cold[kind] = _together(runs)
    return replace(comparison, cold=cold, not_cold=not_cold)


def cold_entrants(
    comparison: Comparison, kind: str, every: bool
) -> tuple[dict[str, Model], list[str]]:
    """Who takes part, and notes of who does not."""
    train = comparison.parts.train
    shape = Shape(len(train.users), len(train.items), len(train))
    able, unable, slow = {}, [], []
    ranked = [Random.name, Popularity.name, RECENT, *plain_similarity(train)]
    for label in comparison.runs:
        model = comparison.models[label]
        if label in comparison.baselines and label not in ranked:
            continue  # a mean of ratings orders no list
        if kind == "items" and not (isinstance(model, PlacesNewItems) or label in ranked[:2]):
            unable += [] if label in comparison.baselines else [label]
        elif not every and model.cost(shape).seconds > SECONDS:
            slow.append(label)
        else:
            able[label] = model
    notes = [f"Cannot tell new items by their columns: {', '.join(unable)}."] if unable else []
    if slow:
        notes.append(f"Slow to fit, not in until asked for (--cold): {', '.join(slow)}.")
    if kind == "items" and set(able) <= set(ranked):
        if not ItemFeatures.learn(train.item_table).columns:
            return {}, [*notes, "Nothing is known of items but who had them (--items)."]
        able[AlignedALS.name] = AlignedALS()
    return able, notes


def _together(runs: Mapping[str, Run]) -> ColdStart:
    first = next(iter(runs.values()))
    assert first.users is not None
    tallies: dict[Case, dict[str, Tally]] = {}
    for label, found in runs.items():
        for name, tally in (found.tallies or {}).items():
            metric, _, case = name.partition(" ")
            tallies.setdefault((label, case), {})[metric] = tally
    return ColdStart(first.protocol, first.users, tallies)


def _line(found: Run, kind: str, k: int) -> str:
    name = f"{METRIC[kind]}@{k}"
    value = {case: (found.tallies or {})[f"{name} {case}"].value for case in CASES[kind]}
    return f"{name} " + ", ".join(f"{case} {m:.4f}" for case, m in value.items())
