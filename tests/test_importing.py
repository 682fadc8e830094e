"""What an import of foretaste costs and needs: little, on every platform."""

from __future__ import annotations

import ast
import pkgutil
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

import foretaste as ft
from foretaste.evaluation import evaluate

MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(ft.__path__, "foretaste.")
    if ".migrations" not in module.name  # alembic runs them, in a context of its own
)
POSIX_ONLY = [
    "crypt",
    "fcntl",
    "grp",
    "posix",
    "pty",
    "pwd",
    "resource",
    "syslog",
    "termios",
    "tty",
]
WITHOUT_POSIX = f"""
import builtins, importlib, os

import_, missing = builtins.__import__, set({POSIX_ONLY})

def on_windows(name, globals=None, *rest):
    if name in missing and (globals or {{}}).get("__name__", "").startswith("foretaste"):
        raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
    return import_(name, globals, *rest)

def no_fork():
    raise AssertionError("forked while it was imported")

builtins.__import__, os.fork = on_windows, no_fork
for module in {MODULES}:
    importlib.import_module(module)
"""


def python(program: str) -> str:
    """Run a program in a fresh interpreter; returns what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_module_can_be_imported_where_there_are_no_modules_of_posix():
    python(WITHOUT_POSIX)


def test_the_test_of_other_platforms_blocks_what_it_says():
    blocked = WITHOUT_POSIX.replace(str(MODULES), "[]")
    for name in POSIX_ONLY:
        with pytest.raises(AssertionError, match=f"No module named '{name}'"):
            python(blocked + f"exec('import {name}', {{'__name__': 'foretaste.somewhere'}})")


@pytest.mark.parametrize("missing", ["/proc", "resource", "resource and /proc"])
def test_peak_memory_is_zero_only_where_nothing_tells_it(missing, monkeypatch):
    if "resource" in missing:
        monkeypatch.setitem(sys.modules, "resource", None)
    if "/proc" in missing:
        monkeypatch.setattr(evaluate.Path, "read_text", lambda _: "")
    assert (evaluate.peak_memory() > 1 << 20) == (missing != "resource and /proc")


# -- only what is used


HEAVY = ["matplotlib", "numpy", "polars", "pydantic", "scipy", "sklearn", "torch"]
LOADED = f"import sys; print(*({{*{HEAVY}}} & {{*sys.modules}}))"


def test_an_import_of_foretaste_loads_nothing_heavy():
    assert python(f"import foretaste; {LOADED}").split() == []


def test_the_list_of_commands_loads_nothing_heavy():
    for option in ("--help", "--version"):
        program = f"""
import sys
from foretaste import cli
sys.argv = ["foretaste", {option!r}]
try:
    cli.main()
except SystemExit:
    print()
    {LOADED}
"""
        assert python(program).splitlines()[-1] == "", option


def test_data_and_models_do_without_scikit_learn_until_there_are_texts():
    assert "sklearn" not in python(f"import foretaste; foretaste.MODELS; foretaste.fit; {LOADED}")


def test_threads_spin_briefly_from_the_first_load_of_torch():
    program = """
import os
os.environ.pop("GOMP_SPINCOUNT", None)
from foretaste import EASE
print(os.environ["GOMP_SPINCOUNT"])
"""
    assert python(program) == "6000\n"


# -- and yet every name is there


@pytest.mark.parametrize("name", ft.__all__)
def test_every_public_name_is_there_and_listed(name):
    assert getattr(ft, name) is not None
    assert name in dir(ft)


@pytest.mark.parametrize("part", ft.PARTS)
def test_every_part_is_there_after_an_import_of_foretaste_alone(part):
    assert python(f"import foretaste; print(foretaste.{part}.__name__)") == f"foretaste.{part}\n"
    assert part in dir(ft)


def test_the_parts_are_the_modules_and_folders_of_foretaste():
    assert set(ft.PARTS) == {module.name for module in pkgutil.iter_modules(ft.__path__)}


def test_names_for_type_checkers_for_first_use_and_in_all_are_the_same():
    tree = ast.parse(Path(str(ft.__file__)).read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    assert ast.unparse(block.test) == "TYPE_CHECKING"
    for_checkers = {
        str(node.module).removeprefix("foretaste."): [alias.name for alias in node.names]
        for node in block.body
        if isinstance(node, ast.ImportFrom)
    }
    assert for_checkers.pop("foretaste") == list(ft.PARTS)
    assert for_checkers == ft.PUBLIC
    named = [name for names in ft.PUBLIC.values() for name in names]
    assert sorted([*named, "__version__"]) == sorted(ft.__all__)


def test_a_star_imports_every_public_name():
    names: dict[str, object] = {}
    exec("from foretaste import *", names)  # noqa: S102
    assert set(ft.__all__) <= set(names)


def test_a_name_that_does_not_exist_is_an_attribute_error():
    with pytest.raises(AttributeError) as caught:
        ft.Popularty  # noqa: B018  # type: ignore[attr-defined]
    assert str(caught.value) == "module 'foretaste' has no attribute 'Popularty'"
    with pytest.raises(ImportError, match="cannot import name 'Popularty' from 'foretaste'"):
        exec("from foretaste import Popularty")  # noqa: S102


@pytest.mark.parametrize(("old", "new"), ft.OLD_NAMES.items())
def test_an_old_name_gives_what_the_new_one_does_with_a_warning_that_names_it(old, new):
    said = f"foretaste.{old} is now foretaste.{new}; the old name goes with the next release."
    with pytest.warns(DeprecationWarning, match=re.escape(said)) as caught:
        found = getattr(ft, old)
    assert found is getattr(ft, new)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert old not in dir(ft)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(DeprecationWarning, match=f"is now foretaste.{new}"):
            exec(f"from foretaste import {old}")  # noqa: S102
