"""The public names explain themselves: every argument, and examples that run."""

from __future__ import annotations

import dataclasses
import doctest
import inspect
import re
import types
import warnings
from collections.abc import Iterator
from typing import Any

import pytest

import foretaste as ft
from foretaste.models import base as base_models

NAMES = [name for name in ft.__all__ if name not in ("__version__", "MODELS")]
NOT_OURS = (Exception, tuple)  # what is inherited from Python explains itself


def owned(kind: type, name: str) -> bool:
    """Whether a method is written in foretaste."""
    for base in kind.__mro__:
        if name in vars(base):
            return base.__module__.startswith("foretaste")
    return False


def documented() -> Iterator[tuple[str, Any, str]]:
    """Every public function and method with its parameters' owner and docstring."""
    for name in NAMES:
        thing = getattr(ft, name)
        if inspect.isclass(thing):
            yield name, thing, inspect.getdoc(thing) or ""
            for member, value in inspect.getmembers(thing, callable):
                plain = isinstance(
                    inspect.getattr_static(thing, member),
                    types.FunctionType | classmethod | staticmethod,
                )
                if not member.startswith("_") and plain and owned(thing, member):
                    yield f"{name}.{member}", value, inspect.getdoc(value) or ""
        else:
            yield name, thing, inspect.getdoc(thing) or ""


def parameters(thing: Any) -> list[str]:
    """What a caller may hand in: arguments, or the init fields of a dataclass."""
    if dataclasses.is_dataclass(thing) and inspect.isclass(thing):
        return [f.name for f in dataclasses.fields(thing) if f.init and not f.name.startswith("_")]
    if inspect.isclass(thing) and issubclass(thing, NOT_OURS):
        return []
    try:
        signature: Any = inspect.signature
        found = signature(thing).parameters
    except ValueError:
        return []
    return [name for name in found if name not in ("self", "cls", "args", "kwargs")]


def explained(name: str, doc: str) -> bool:
    """Whether a docstring has a line `name: What it is.`"""
    return re.search(rf"^\s*\*{{0,2}}{re.escape(name)}(\s*\([^)]*\))?:\s*\S", doc, re.M) is not None


ALL = list(documented())


def inherited(name: str) -> str:
    """What the bases of a class, or the abilities that a method belongs to, say of it."""
    kind, _, member = name.partition(".")
    bases = getattr(getattr(ft, kind), "__mro__", (object,))[:-1]
    if not member:
        return "\n".join(inspect.getdoc(base) or "" for base in bases)
    abilities = [thing for _, thing in inspect.getmembers(base_models, inspect.isclass)]
    found = [vars(owner).get(member) for owner in (*bases, *abilities)]
    return "\n".join(inspect.getdoc(method) or "" for method in found if method is not None)


@pytest.mark.parametrize(("name", "thing", "doc"), ALL, ids=[name for name, _, _ in ALL])
def test_every_argument_of_a_public_name_is_explained(name, thing, doc):
    assert doc, f"{name} has no docstring"
    silent = [p for p in parameters(thing) if not explained(p, f"{doc}\n{inherited(name)}")]
    assert not silent, f"{name} does not explain {', '.join(silent)}"


@pytest.mark.parametrize("name", NAMES)
def test_the_examples_of_a_public_name_run(name):
    thing = getattr(ft, name)
    finder, runner = doctest.DocTestFinder(recurse=True), doctest.DocTestRunner(verbose=False)
    output: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for test in finder.find(thing, name, globs={}):
            runner.run(test, out=output.append)
    assert runner.summarize(verbose=False).failed == 0, "".join(output)


# old names, and what comes out of functions whose examples show it
WITHOUT_EXAMPLE = {
    "ColdStart", "Comparison", "IgnoredIdsWarning", "Report",
    "add_cold_starts", "recommend_all", "run_comparison",
}  # fmt: skip


def test_public_names_show_how_they_are_used():
    shown = {name for name in NAMES if ">>>" in (inspect.getdoc(getattr(ft, name)) or "")}
    silent = sorted(set(NAMES) - shown - WITHOUT_EXAMPLE)
    assert not silent, f"an example of two lines, please: {silent}"
