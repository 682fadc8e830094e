"""The documents keep their word: python blocks run, command lines parse, names and links exist.

A block right after `<!-- not run: reason -->` is left alone.
"""

from __future__ import annotations

import re
import shlex
import tomllib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import typer

import foretaste as ft
from foretaste import cli
from foretaste.experiments.recipes import Recipe, recipe_names
from foretaste.models import MODELS

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted(ROOT.glob("C*.md")), *sorted(ROOT.glob("docs/**/*.md"))]
BLOCK = re.compile(
    r"^(?P<skip><!-- not run: .+? -->\n+)?```(?P<kind>\w*)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
COMMANDS = {name: cli.load(name) for name in cli.COMMANDS}
WRONG_USAGE = typer.BadParameter.__bases__[0]
TARGETS = set(re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))


@dataclass(frozen=True)
class Block:
    """A fenced block of a document, and the line that it starts on."""

    document: Path
    line: int
    kind: str
    text: str
    skipped: bool

    def __str__(self) -> str:
        return f"{self.document.relative_to(ROOT)}:{self.line}"


def blocks_of(document: Path) -> list[Block]:
    text = document.read_text()
    return [
        Block(document, text.count("\n", 0, m.start("text")), m["kind"], m["text"], bool(m["skip"]))
        for m in BLOCK.finditer(text)
    ]


BLOCKS = [block for document in DOCUMENTS for block in blocks_of(document)]
TO_RUN = [block for block in BLOCKS if not block.skipped]
OF_KIND = {
    kind: [block for block in TO_RUN if block.kind == kind] for kind in ("bash", "python", "toml")
}


def commands_in(text: str) -> list[list[str]]:
    """The simple commands of a bash block as words, without comments, prompts and assignments."""
    found = []
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line.removeprefix("$ "), comments=True)
        command: list[str] = []
        for word in [*words, ";"]:
            if word in {"|", "&&", "||", ";", "&"}:
                found.append(command)
                command = []
            elif command or not re.fullmatch(r"\w+=.*", word):
                command.append(word)
    return [command for command in found if command]


def parse(words: list[str]) -> None:
    """Raises typer's usage error where the words are no command line of foretaste."""
    assert words[0] in COMMANDS, f"there is no command {words[0]!r}"
    context = COMMANDS[words[0]].make_context(words[0], words[1:])
    asked = context.params
    assert asked.get("recipe") in {None, *recipe_names()} or asked["recipe"].endswith(".toml")
    models = asked.get("model") or []
    assert set([models] if isinstance(models, str) else models) <= set(MODELS)


def test_there_are_documents_with_blocks_to_check():
    assert DOCUMENTS[0].is_file()
    assert any(block.document.name == "README.md" for block in OF_KIND["bash"])
    assert any(block.document.name == "README.md" for block in OF_KIND["python"])


@pytest.mark.parametrize("block", OF_KIND["bash"], ids=str)
def test_every_command_line_would_be_understood(block):
    for words in commands_in(block.text):
        program, *rest = words
        if program == "foretaste":
            parse(rest)
        elif program == "make":
            assert {word for word in rest if "=" not in word} <= TARGETS, f"no such target: {words}"
        else:
            assert program in {"cd", "export"}, (
                f"{program}: put <!-- not run: reason --> before the block"
            )


WITH_PYTHON = sorted({block.document for block in OF_KIND["python"]})


@pytest.mark.parametrize("document", WITH_PYTHON, ids=lambda path: path.name)
def test_python_blocks_run_in_their_order(document, tmp_path, monkeypatch):
    blocks = [block for block in OF_KIND["python"] if block.document == document]
    monkeypatch.chdir(tmp_path)
    small_ratings().write_csv("ratings.csv")
    names: dict[str, object] = {"ft": ft}
    for block in blocks:
        padded = "\n" * block.line + block.text  # so that a traceback names the document's line
        exec(compile(padded, str(block.document), "exec"), names)  # noqa: S102


def small_ratings() -> pl.DataFrame:
    """400 ratings by users 1 to 50 of 20 items, among them the ones that the documents name."""
    rng = np.random.default_rng(0)
    items = np.array([50, 172, 181, *range(1, 18)])
    pair = rng.choice(50 * 20, size=400, replace=False)
    return pl.DataFrame(
        {
            "user": pair // 20 + 1,
            "item": items[pair % 20],
            "rating": rng.integers(1, 6, 400),
            "time": rng.integers(1_500_000_000, 1_600_000_000, 400),
        }
    )


@pytest.mark.parametrize("block", OF_KIND["toml"], ids=str)
def test_toml_blocks_are_recipes_that_load(block):
    Recipe(name="example", **tomllib.loads(block.text)).configured()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_names_in_running_text_exist(document):
    prose = BLOCK.sub("", document.read_text())
    for code in re.findall(r"(?<!`)`([^`\n]+)`(?!`)", prose):
        words = code.split()
        if words[0] == "foretaste" and len(words) > 1 and re.fullmatch("[a-z]+", words[1]):
            assert words[1] in COMMANDS, code
            known = {option for p in COMMANDS[words[1]].params for option in p.opts} | {"--help"}
            assert {word for word in words[2:] if word.startswith("-")} <= known, code
        elif words[0] == "make" and len(words) > 1:
            assert words[1] in TARGETS, code
        elif match := re.match(r"ft\.(\w+)", code):
            assert hasattr(ft, match[1]), code


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_within_the_project_lead_somewhere(document):
    for target in re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", document.read_text()):
        assert (document.parent / target).exists(), target


@pytest.mark.parametrize(
    "line", ["foretaste recomend b", "foretaste recommend b --usr 1", "foretaste train r --model x"]
)
def test_a_wrong_command_line_is_found(line):
    with pytest.raises((AssertionError, WRONG_USAGE)):
        parse(commands_in(line)[0][1:])


def test_bash_is_cut_into_its_commands():
    text = "$ A=1 foretaste check 'a b.csv' \\\n  --json | head  # why\nmake demo && cd x\n\n# no\n"
    assert commands_in(text) == [
        ["foretaste", "check", "a b.csv", "--json"], ["head"], ["make", "demo"], ["cd", "x"],
    ]  # fmt: skip
