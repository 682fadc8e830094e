"""The command line where output goes wrong: a terminal without UTF-8, a full disk, /dev/full."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys

import polars as pl
import pytest

import foretaste as ft
from foretaste import cli
from foretaste.cli.terminal import explained
from tests.conftest import synthetic

PROGRAM = f"{shlex.quote(sys.executable)} -c 'from foretaste.cli import main; main()'"
FULL = "No space left on device"
LINES = [
    "check ratings.csv", "check ratings.csv --json", "check missing.csv --json", "doctor", "fetch",
    "evaluate ratings.csv --model bias --json", "recommend bundle --user Zoë", "--version",
    "recommend bundle --user Zoë --json", "predict bundle --user Zoë --items 1,2",
]  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("home")
    frame = synthetic(n_users=20, n_items=15, n_rows=200).frame().rename({"value": "rating"})
    user = pl.col("user").cast(pl.String)
    named = pl.when(user == user.first()).then(pl.lit("Zoë")).otherwise(user).alias("user")
    frame = frame.select(named, pl.col("item").cast(pl.String), "rating")
    frame.write_csv(folder / "ratings.csv")
    titles = frame.select(pl.col("item").unique().sort()).with_columns(title=pl.lit("Пётр – Größe"))
    ratings = ft.read(folder / "ratings.csv").join_items(titles)
    ft.fit(ft.Bias(), ratings, progress=False).save(folder / "bundle")
    return folder


def shell(line: str, folder, **environment: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        ["bash", "-c", line.replace("foretaste", PROGRAM)], check=False, cwd=folder,
        capture_output=True, timeout=120, env={**os.environ, **environment},
    )  # fmt: skip


@pytest.mark.parametrize("line", [*LINES, *(f"{name} --help" for name in cli.COMMANDS)])
def test_a_full_disk_where_output_goes_is_an_error_and_no_traceback(
    home, monkeypatch, capsys, line
):
    monkeypatch.chdir(home)
    monkeypatch.setenv("FORETASTE_DATA", str(home / "data"))
    monkeypatch.setattr(sys, "argv", ["foretaste", *shlex.split(line)])
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        with pytest.raises(SystemExit) as exit_:
            cli.main()
        monkeypatch.undo()
    assert exit_.value.code == 1
    assert f"error: the output cannot be written ({FULL})." in capsys.readouterr().err


def test_a_process_with_full_streams_ends_with_1_and_says_so_where_it_can(home):
    done = shell("foretaste check ratings.csv > /dev/full", home)
    assert done.returncode == 1
    assert done.stderr.decode() == (
        f"error: the output cannot be written ({FULL}). Make room, or write it to another place.\n"
    )
    both = shell("foretaste check missing.csv > /dev/full 2> /dev/full", home)
    assert (both.returncode, both.stdout, both.stderr) == (1, b"", b"")


@pytest.mark.parametrize(
    "environment",
    [{"PYTHONIOENCODING": "ascii"},
     {"PYTHONUTF8": "0", "LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0"}],
)  # fmt: skip
def test_a_terminal_without_utf_8_gets_plain_characters(home, environment):
    done = shell(
        "foretaste recommend bundle --user u3 -k 3; foretaste check ü", home, **environment
    )
    assert b"Traceback" not in done.stderr
    assert b"???? - " in done.stdout  # the title, without Cyrillic
    assert b": there is no such file." in done.stderr


def test_a_file_that_finds_no_room_is_named(home):
    done = shell("ulimit -f 1; foretaste train ratings.csv --model bias --out full", home)
    said = done.stderr.decode()
    assert done.returncode == 1
    assert "Traceback" not in said
    assert "error: " in said
    assert "File too large" in said
    assert "full" in said
    assert not (home / "full" / "manifest.json").exists()


def test_a_device_is_never_replaced_by_a_file(home, tmp_path):
    fifo = tmp_path / "lists.parquet"
    os.mkfifo(fifo)
    with pytest.raises(ft.ForetasteError) as caught:
        ft.load(home / "bundle").export(fifo)
    assert "cannot be written (this is a device or a pipe, not a file)." in str(caught.value)
    assert fifo.is_fifo()


def test_an_error_of_the_system_names_its_file_where_it_has_one():
    assert explained(OSError(28, FULL, "a/b.json")) == (
        f"a/b.json: this cannot be read or written ({FULL}). Check the path and the disk."
    )
