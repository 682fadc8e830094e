"""The rules of DESIGN.md and STYLE.md that a machine can check."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SRC = Path(__file__).parents[1] / "src" / "foretaste"
LAYERS = [  # the eight baselines of DESIGN.md, the lowest first: arrows only point down
    ["errors"],
    ["bundle"],
    ["data", "training"],
    ["models"],
    ["recommending"],
    ["evaluation"],
    ["service", "experiments"],
    ["cli"],
]
LEVEL = {part: level for level, parts in enumerate(LAYERS) for part in parts}
DOORS = {  # outside thing -> the only places that may import it, each a path or the start of one
    "sqlalchemy": ("service/store.py", "service/migrations/"),
    "fastapi": ("service/",),
    "torch.distributed": ("training/engine.py",),
    "typer": ("cli/",),
    "rich": ("cli/", "training/engine.py"),
    "matplotlib": ("experiments/report/",),
    "usearch": ("recommending/retrieval.py",),
    "alembic": ("service/",),
}
LAZY = ("__init__.py", "cli/__init__.py")  # import what is used, when it is used, from a table
RUNS_CODE_ON_LOAD = {"pickle", "cloudpickle", "joblib", "dill", "shelve", "marshal"}
VAGUE = {"utils", "util", "helpers", "helper", "common", "misc", "tools", "core", "manager"}
MODULE_LINES, FUNCTION_LINES = 400, 60
FOLDER_MODULES, ROOMY_FOLDERS = 12, {"data": 20, "models": 20}

FILES = sorted(SRC.rglob("*.py"))
TREES = {file: ast.parse(file.read_text()) for file in FILES}
Function = ast.FunctionDef | ast.AsyncFunctionDef


def name_of(file: Path) -> str:
    return file.relative_to(SRC).as_posix()


def dotted(file: Path) -> str:
    parts = ("foretaste", *file.relative_to(SRC).with_suffix("").parts)
    return ".".join(parts).removesuffix(".__init__")


def imports(file: Path) -> Iterator[tuple[str, bool]]:
    """Every dotted name imported, and whether the import stands at the top level of the module.

    What the lazy doors import for type checkers alone is left out.
    """
    top = set(map(id, TREES[file].body))
    skipped = {
        id(inner)
        for node in TREES[file].body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
        if name_of(file) in LAZY
    }
    for node in ast.walk(TREES[file]):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"{name_of(file)}: write imports from the root, not relative"
            yield from ((f"{node.module}.{alias.name}", id(node) in top) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((alias.name, id(node) in top) for alias in node.names)


def functions(file: Path) -> Iterator[tuple[str, Function]]:
    """Every function and method with its dotted name; nested ones as OUTER.<locals>.NAME."""

    def inside(node: ast.AST, prefix: str) -> Iterator[tuple[str, Function]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, Function):
                yield prefix + child.name, child
                yield from inside(child, f"{prefix}{child.name}.<locals>.")
            elif isinstance(child, ast.ClassDef):
                yield from inside(child, f"{prefix}{child.name}.")
            else:
                yield from inside(child, prefix)

    return inside(TREES[file], "")


def public_functions(file: Path) -> Iterator[tuple[str, Function]]:
    for name, function in functions(file):
        if "<locals>" not in name and not any(part.startswith("_") for part in name.split(".")):
            yield f"{name_of(file)}: {name}", function


def only_a_docstring(file: Path) -> bool:
    body = TREES[file].body
    return not body or (len(body) == 1 and ast.get_docstring(TREES[file]) is not None)


def test_every_part_has_its_layer():
    parts = {name_of(file).split("/")[0].removesuffix(".py") for file in FILES} - {"__init__"}
    assert parts <= set(LEVEL), f"give these a layer in DESIGN.md and here: {parts - set(LEVEL)}"


def test_imports_only_go_down_the_layers():
    for file in FILES:
        part = name_of(file).split("/")[0].removesuffix(".py")
        for name, _ in imports(file):
            other = name.split(".")[1] if name.startswith("foretaste.") else part
            if other in LEVEL and other != part:
                assert LEVEL[other] < LEVEL.get(part, len(LAYERS)), (
                    f"{name_of(file)} imports foretaste.{other}, which is not below it. "
                    "Move the shared code down, or pass the object in as an argument."
                )


def test_modules_do_not_import_each_other_in_a_circle():
    module_of = {dotted(file): file for file in FILES}
    below = {module: set[str]() for module in module_of}
    for module, file in module_of.items():
        for name, _ in imports(file):
            found = name if name in module_of else name.rpartition(".")[0]
            below[module] |= {found} & set(module_of) - {module}
    while leaves := {module for module, needs in below.items() if not needs}:
        below = {m: needs - leaves for m, needs in below.items() if m not in leaves}
    assert not below, f"these import each other in a circle: {sorted(below)}"


def test_project_imports_stand_at_the_top_of_the_file():
    late = [
        f"{name_of(file)}: {name}"
        for file in FILES
        for name, top in imports(file)
        if name.startswith("foretaste") and not top
    ]
    assert not late, f"an import inside a function hides a layering problem: {late}"


def test_only_the_two_lazy_doors_import_foretaste_by_a_name_in_a_text():
    """Of `importlib.import_module`; the service is an extra, which the command line may lack."""
    allowed = {*LAZY, "cli/serve.py"}
    late = {
        f"{name_of(file)}:{node.lineno}"
        for file in FILES
        for node in ast.walk(TREES[file])
        if isinstance(node, ast.Call)
        and ast.unparse(node.func).endswith(("import_module", "__import__"))
        and "foretaste" in ast.unparse(node).replace("__name__", "foretaste")
        and name_of(file) not in allowed
    }
    assert not late, f"import these at the top of the file: {late}"


def test_each_outside_thing_has_one_door():
    for file in FILES:
        for name, _ in imports(file):
            for module, doors in DOORS.items():
                if name == module or name.startswith(module + "."):
                    assert name_of(file).startswith(doors), (
                        f"{name_of(file)} imports {name}; only {doors} may"
                    )


def test_nothing_that_runs_code_on_load_is_imported_or_called():
    for file in FILES:
        for name, _ in imports(file):
            assert not RUNS_CODE_ON_LOAD & set(name.split(".")), (
                f"{name_of(file)} imports {name}: a bundle is data, loading it must run no code"
            )
        for node in ast.walk(TREES[file]):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in (
                    "torch.load",
                    "torch.save",
                    "eval",
                    "exec",
                    "pl.Expr.deserialize",
                ), f"{name_of(file)}:{node.lineno} calls {called}, which unpickles or runs code"
                unpickles = [k.arg for k in node.keywords if k.arg == "allow_pickle"]
                assert not unpickles, f"{name_of(file)}:{node.lineno} allows pickles"


def test_global_randomness_is_neither_seeded_nor_read():
    for file in FILES:
        for node in ast.walk(TREES[file]):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in ("torch.manual_seed", "random.seed", "np.random.seed"), (
                    f"{name_of(file)}:{node.lineno} seeds global state: take a generator of Engine"
                )
        assert "random" not in {name for name, _ in imports(file)}, (
            f"{name_of(file)} imports random: take Engine.rng()"
        )


def test_no_folder_holds_more_modules_than_a_reader_can_keep_in_mind():
    held: dict[str, list[str]] = {}
    for file in FILES:
        if not only_a_docstring(file):
            held.setdefault(file.parent.relative_to(SRC).as_posix(), []).append(file.stem)
    for folder, modules in held.items():
        most = ROOMY_FOLDERS.get(folder, FOLDER_MODULES)
        assert len(modules) <= most, f"{folder} has {len(modules)} modules: {modules}"


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_no_module_outgrows_400_lines(file):
    lines = len(file.read_text().splitlines())
    assert lines <= MODULE_LINES, f"{name_of(file)} has {lines} lines: split by responsibility"


def lines_of_code(function: Function) -> int:
    """Lines of a function without its docstring, which may be as long as its arguments are many."""
    lines = (function.end_lineno or 0) - function.lineno + 1
    first = function.body[0]
    if ast.get_docstring(function) is not None:
        lines -= (first.end_lineno or 0) - first.lineno + 1
    return lines


def test_no_function_outgrows_60_lines():
    long = {
        f"{name_of(file)}: {name}": lines
        for file in FILES
        for name, function in functions(file)
        if (lines := lines_of_code(function)) > FUNCTION_LINES
    }
    assert not long, f"split these: {long}"


def test_every_module_is_named_for_what_it_does():
    vague = [name_of(file) for file in FILES if VAGUE & set(dotted(file).split("."))]
    assert not vague, f"rename these for their one responsibility, or inline them: {vague}"


def test_every_module_and_public_function_says_what_it_is_for():
    silent = [name_of(file) for file in FILES if ast.get_docstring(TREES[file]) is None]
    silent += [
        name
        for file in FILES
        for name, function in public_functions(file)
        if ast.get_docstring(function) is None
    ]
    assert not silent, f"one sentence each, please: {silent}"


def test_every_public_function_has_types():
    untyped = []
    for file in FILES:
        for name, function in public_functions(file):
            spec = function.args
            given = [*spec.posonlyargs, *spec.args, *spec.kwonlyargs]
            given += [extra for extra in (spec.vararg, spec.kwarg) if extra is not None]
            bare = [a.arg for a in given if a.annotation is None and a.arg not in ("self", "cls")]
            if bare or function.returns is None:
                untyped.append(f"{name}: {bare or 'the result'}")
    assert not untyped, f"annotate these: {untyped}"
