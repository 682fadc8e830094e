"""Bundles: every byte verified, replaced in one step, and no harm to anything else."""

from __future__ import annotations

import ast
import errno
import hashlib
import json
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

import foretaste as ft
from foretaste import bundle
from foretaste.errors import BundleError
from tests.processes import KILLED, killed_after, save_alternately, small_model, started

TRAIN_AGAIN = "Restore it from a backup, or train again."


@pytest.fixture(scope="module")
def recommender(ratings) -> ft.Recommender:
    titles = pl.DataFrame({"item": ratings.items.values}).with_columns(
        title="film " + pl.col("item")
    )
    return ft.fit(small_model(epochs=1), ratings.with_items(titles), progress=False)


@pytest.fixture(scope="module")
def saved(recommender, tmp_path_factory) -> Path:
    return recommender.save(tmp_path_factory.mktemp("saved") / "bundle")


@pytest.fixture
def copy(saved, tmp_path) -> Path:
    """A bundle that a test may spoil."""
    return Path(shutil.copytree(saved, tmp_path / "bundle"))


def listing(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def rewrite(folder: Path, **changes: Any) -> None:
    """Change entries of a manifest, its checksum made valid again."""
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text()) | changes
    del manifest["sha256"]
    manifest["sha256"] = hashlib.sha256(json.dumps(manifest, indent=1).encode()).hexdigest()
    path.write_text(json.dumps(manifest, indent=1))


def refusal(folder: Path) -> str:
    with pytest.raises(BundleError) as caught:
        ft.load(folder)
    return str(caught.value).replace(str(folder), "BUNDLE")


# -- round trip


def test_a_bundle_gives_back_what_was_written(tmp_path):
    values = {
        "text": "žluť\u2028\x00",
        "number": 1e-05,
        "nan": float("nan"),
        "list": [1, [None, True]],
    }
    tensors = {
        "a": torch.arange(6.0).reshape(2, 3).T,  # not contiguous
        "b.c": torch.tensor(7),
        "none": torch.zeros(0, 4),
        "half": torch.ones(3, dtype=torch.bfloat16),
    }
    tables = {"items": pl.DataFrame({"id": ["x", None], "n": [1, 2]}), "empty": pl.DataFrame()}
    bundle.write(tmp_path / "deep" / "down", values, tensors, tables)
    back = bundle.read(str(tmp_path / "deep" / "down"))
    assert repr(back.values) == repr(values)
    assert back.tensors.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert back.tensors[name].dtype == tensor.dtype
        assert torch.equal(back.tensors[name], tensor)
    assert back.tables.keys() == tables.keys()
    assert all(back.tables[name].equals(table) for name, table in tables.items())


def test_a_recommender_comes_back_whole(recommender, saved):
    loaded = ft.load(saved)
    assert loaded.recommend("u1").equals(recommender.recommend("u1"))
    assert "title" in loaded.recommend("u1").columns
    assert loaded.dataset.frame().equals(recommender.dataset.frame())
    assert loaded.dataset.report == recommender.dataset.report
    assert loaded.training == recommender.training
    assert loaded.model.state()[1] == recommender.model.state()[1]


def test_the_same_recommender_makes_the_same_files(recommender, saved, tmp_path):
    assert listing(recommender.save(tmp_path / "again")) == listing(saved)
    assert listing(ft.load(saved).save(tmp_path / "reloaded")) == listing(saved)


def test_a_bundle_is_a_manifest_tensors_and_tables(saved):
    stems = sorted(path.name.partition("-")[0] for path in saved.iterdir())
    assert stems == ["interactions", "items", "manifest.json", "model", "users"]
    manifest = json.loads((saved / "manifest.json").read_text())
    for entry in manifest["files"].values():
        content = (saved / entry["file"]).read_bytes()
        assert entry["sha256"] == hashlib.sha256(content).hexdigest()
        assert entry["bytes"] == len(content)


# -- damage


@pytest.mark.parametrize("part", ["manifest", "model", "interactions", "items", "users"])
def test_every_flipped_bit_is_caught(part, copy):
    (path,) = copy.glob(f"{part}*")
    good = path.read_bytes()
    bits = np.random.default_rng(1).choice(8 * len(good), size=300, replace=False)
    for bit in bits:
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        path.write_bytes(bad)
        with pytest.raises(BundleError):
            ft.load(copy)
    path.write_bytes(good)
    assert ft.load(copy)


def test_even_a_flipped_bit_that_means_the_same_number_is_caught(copy):
    path = copy / "manifest.json"
    text = path.read_text()
    assert "1e-05" in text
    path.write_text(text.replace("1e-05", "1E-05"))
    assert refusal(copy) == (
        f"BUNDLE/manifest.json: the manifest is damaged: its SHA-256 is not the one it names. "
        f"{TRAIN_AGAIN}"
    )


@pytest.mark.parametrize("part", ["manifest", "model", "interactions"])
def test_every_truncation_is_caught(part, copy):
    (path,) = copy.glob(f"{part}*")
    good = path.read_bytes()
    for length in np.linspace(0, len(good) - 1, 40).astype(int):
        path.write_bytes(good[:length])
        with pytest.raises(BundleError):
            ft.load(copy)
    path.write_bytes(good + b" ")
    with pytest.raises(BundleError):
        ft.load(copy)


def test_a_damaged_file_is_named(copy):
    (path,) = copy.glob("model-*")
    path.write_bytes(path.read_bytes()[:-1])
    assert refusal(copy) == (
        f"BUNDLE/{path.name}: the file is damaged: its SHA-256 is not the one in the manifest. "
        f"{TRAIN_AGAIN}"
    )


@pytest.mark.parametrize("part", ["model", "interactions", "items", "users"])
def test_a_missing_file_is_named(part, copy):
    (path,) = copy.glob(f"{part}-*")
    path.unlink()
    assert refusal(copy) == (
        f"BUNDLE/{path.name}: the file is missing from the bundle. Restore it, or train again."
    )


def test_a_folder_in_the_place_of_a_file_is_named(copy):
    (path,) = copy.glob("model-*")
    path.unlink()
    path.mkdir()
    assert refusal(copy) == f"BUNDLE/{path.name}: cannot be read: Is a directory."


@pytest.mark.parametrize(
    "content", [b"", b"{", b"not JSON", b"[]", b'"text"', b"3", b"null", b"{}", b"\xff\xfe{}"]
)
def test_a_manifest_that_is_not_ours_is_damaged(content, copy):
    (copy / "manifest.json").write_bytes(content)
    assert refusal(copy) == (
        "BUNDLE/manifest.json: the manifest is damaged: it is not the JSON that foretaste writes. "
        f"{TRAIN_AGAIN}"
    )


def test_a_changed_value_in_the_manifest_is_damage(copy):
    path = copy / "manifest.json"
    path.write_text(path.read_text().replace('"explicit": true', '"explicit": false'))
    assert refusal(copy) == (
        "BUNDLE/manifest.json: the manifest is damaged: its SHA-256 is not the one it names. "
        f"{TRAIN_AGAIN}"
    )


def test_a_newer_format_asks_for_an_upgrade(copy):
    rewrite(copy, format=2)
    assert refusal(copy) == (
        "BUNDLE/manifest.json: the bundle has format 2, this foretaste reads up to 1. "
        "Upgrade: pip install --upgrade foretaste."
    )


def with_model(folder: Path, **about: Any) -> None:
    values = json.loads((folder / "manifest.json").read_text())["values"]
    rewrite(folder, values=values | {"model": values["model"] | about})


def test_a_foreign_model_is_named_and_never_imported(copy):
    with_model(copy, name="os.system")
    assert refusal(copy) == (
        "BUNDLE: the bundle holds a model 'os.system', which this foretaste does not have. "
        f"It has {', '.join(ft.MODELS)}; upgrade, or train again."
    )


def test_a_model_with_fields_of_another_version_is_refused(copy):
    with_model(copy, fields={"n_factorz": 8})
    assert refusal(copy) == (
        "BUNDLE: a part of the bundle is missing or of the wrong kind (embedding-net has no field "
        "'n_factorz'. Did you mean n_factors?). Train again."
    )


def test_weights_of_another_shape_are_refused(copy):
    values = json.loads((copy / "manifest.json").read_text())["values"]
    with_model(copy, fields=values["model"]["fields"] | {"hidden": [5]})
    assert refusal(copy).startswith(
        "BUNDLE: a part of the bundle is missing or of the wrong kind ("
    )


@pytest.mark.parametrize("lost", ["model", "data", "training", "metrics"])
def test_a_value_that_is_missing_is_refused(lost, copy):
    values = json.loads((copy / "manifest.json").read_text())["values"]
    del values[lost]
    rewrite(copy, values=values)
    assert refusal(copy) == (
        f"BUNDLE: a part of the bundle is missing or of the wrong kind ('{lost}'). Train again."
    )


def test_a_place_without_a_bundle_says_how_to_make_one(tmp_path):
    advice = (
        "BUNDLE: there is no bundle here: manifest.json is missing. "
        "Make one with `foretaste train ... --out` or Recommender.save."
    )
    assert refusal(tmp_path) == advice  # an empty folder
    assert refusal(tmp_path / "nowhere") == advice


def test_a_file_in_the_place_of_a_bundle_is_no_folder(recommender, tmp_path):
    path = tmp_path / "file"
    path.write_text("precious")
    assert refusal(path) == "BUNDLE: is not a folder. Name a bundle folder."
    with pytest.raises(BundleError) as caught:
        recommender.save(path)
    assert str(caught.value) == (
        f"{path}: exists and is not a bundle: nothing was written. Choose another --out."
    )
    with pytest.raises(BundleError) as caught:
        recommender.save(path / "below")
    assert str(caught.value) == (
        f"{path}/below: cannot be written: Not a directory. Choose another --out."
    )
    assert path.read_text() == "precious"


# -- what lies there already


@pytest.mark.parametrize(
    "names",
    [
        ["notes.txt"],
        ["ratings.parquet"],  # could be the very table that is trained on
        ["weights.safetensors", "items.parquet", "draft.new"],
        ["manifest.json"],  # of a web page, say
        ["manifest.json", "ratings.parquet"],
        ["model-0123456789ab.safetensors", "notes.txt"],
    ],
)
def test_nothing_is_written_into_a_folder_of_other_things(names, recommender, tmp_path):
    for name in names:
        (tmp_path / name).write_text('{"name": "precious"}')
    before = listing(tmp_path)
    with pytest.raises(BundleError) as caught:
        recommender.save(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path}: exists and is not a bundle: nothing was written. Choose another --out."
    )
    assert listing(tmp_path) == before


def test_a_new_bundle_replaces_the_old_one_and_leaves_nothing_of_it(recommender, copy, ratings):
    other = ft.fit(ft.Bias(), ratings, progress=False)
    other.save(copy)
    manifest = json.loads((copy / "manifest.json").read_text())
    named = {entry["file"] for entry in manifest["files"].values()}
    assert {path.name for path in copy.iterdir()} == named | {"manifest.json"}
    assert ft.load(copy).model.name == "bias"


def test_what_a_killed_save_left_is_swept_up_and_what_others_put_there_stays(recommender, copy):
    stray = [
        "model-0123456789ab.safetensors",
        "users-0123456789ab.parquet.new",  # of foretaste 0.1.0
        "users-0123456789ab.parquet.0123456789ab.new",
        "manifest.json.new",
        "manifest.json.0123456789ab.new",
        "foretaste.lock",
    ]
    others = ["README.md", "ratings.parquet", "notes.new"]
    for name in stray + others:
        (copy / name).write_text("left over")
    before = {path.name for path in copy.iterdir()}
    recommender.save(copy)
    assert {path.name for path in copy.iterdir()} == before - set(stray)
    assert ft.load(copy)


def test_an_interrupted_first_save_can_be_repeated(recommender, tmp_path):
    (tmp_path / "model-0123456789ab.safetensors").write_text("half")
    recommender.save(tmp_path)
    assert ft.load(tmp_path)
    assert not (tmp_path / "model-0123456789ab.safetensors").exists()


def test_a_folder_with_the_manifest_of_a_bundle_alone_can_be_written_over(
    recommender, copy, ratings
):
    for path in copy.iterdir():
        if path.name != "manifest.json":
            path.unlink()
    (copy / "README.md").write_text("about the bundle")
    recommender.save(copy)
    assert ft.load(copy)
    assert (copy / "README.md").read_text() == "about the bundle"


def test_a_disk_that_fails_leaves_the_old_bundle(recommender, copy, ratings, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    before = listing(copy)
    with monkeypatch.context() as patched:
        patched.setattr("foretaste.bundle.os.fsync", full)
        with pytest.raises(BundleError) as caught:
            ft.fit(ft.Bias(), ratings, progress=False).save(copy)
    assert str(caught.value) == (
        f"{copy}: cannot be written: No space left on device. Choose another --out."
    )
    assert before.items() <= listing(copy).items()
    assert ft.load(copy).model.name == "embedding-net"


# -- kill -9, and readers beside a writer


@pytest.fixture(scope="module")
def two_bundles(ratings, tmp_path_factory) -> dict[str, Path]:
    """Bundles of models that share some files (items, users) and not others, by model name."""
    models = [ft.GlobalMean(), ft.EmbeddingModel(epochs=1, hidden=[8], n_factors=256, refit=False)]
    folder = tmp_path_factory.mktemp("two")
    return {m.name: ft.fit(m, ratings, progress=False).save(folder / m.name) for m in models}


@pytest.mark.slow
def test_killed_at_any_moment_of_saving_the_old_or_the_new_bundle_is_there(two_bundles, tmp_path):
    out, rng, found = tmp_path / "bundle", np.random.default_rng(2), set()
    sources = {
        name: json.loads((b / "manifest.json").read_text()) for name, b in two_bundles.items()
    }
    shutil.copytree(next(iter(two_bundles.values())), out)
    for _ in range(20):
        exitcode = killed_after(rng.uniform(0, 0.1), save_alternately, [*two_bundles.values()], out)
        assert exitcode == KILLED
        loaded = ft.load(out)
        found.add(loaded.model.name)
        assert json.loads((out / "manifest.json").read_text()) == sources[loaded.model.name]
    assert found == set(two_bundles), "the moments are too alike to test anything"
    ft.load(two_bundles["global-mean"]).save(out)
    assert listing(out) == listing(two_bundles["global-mean"])


def test_a_reader_beside_a_busy_writer_always_gets_one_of_the_bundles(two_bundles, tmp_path):
    out, found = tmp_path / "bundle", []
    shutil.copytree(two_bundles["global-mean"], out)
    with started(save_alternately, [*two_bundles.values()], out) as writer:
        for _ in range(400):
            found.append(ft.load(out).model.name)
        assert writer.is_alive()
    assert set(found) == set(two_bundles)


def test_a_reader_begins_anew_when_its_files_were_replaced_under_it(
    two_bundles, tmp_path, monkeypatch
):
    out = Path(shutil.copytree(two_bundles["global-mean"], tmp_path / "bundle"))
    other, open_file, replaced = ft.load(two_bundles["embedding-net"]), Path.open, []

    def replace_first(path: Path, *arguments, **more):
        if path.name.startswith("model-") and not replaced:
            replaced.append(path)
            other.save(out)
        return open_file(path, *arguments, **more)

    monkeypatch.setattr(Path, "open", replace_first)
    assert ft.load(out).model.name == "embedding-net"
    assert replaced


# -- two writers of one folder


@pytest.mark.parametrize(("first", "second"), [(0.0, 0.0), (0.3, 0.4), (0.5, 0.2)])
def test_two_writers_of_one_folder_are_kept_apart_and_killed_at_any_moment_leave_one_of_the_bundles(
    first, second, two_bundles, tmp_path
):
    out, found = tmp_path / "bundle", set()
    sources = [json.loads((b / "manifest.json").read_text()) for b in two_bundles.values()]
    one, other = two_bundles.values()
    rng = np.random.default_rng([int(10 * first), int(10 * second)])
    with (
        started(save_alternately, [one, other], out) as a,
        started(save_alternately, [other, one], out) as b,
    ):
        for writer, seconds in ((a, first), (b, second)):
            until = time.monotonic() + seconds + rng.uniform(0, 0.1)
            while time.monotonic() < until:
                found.add(ft.load(out).model.name)
            assert writer.is_alive(), "a writer fell over the other one"
            writer.kill()
            writer.join()
            assert json.loads((out / "manifest.json").read_text()) in sources
            assert ft.load(out)
    assert found <= set(two_bundles)
    ft.load(two_bundles["global-mean"]).save(out)
    assert listing(out) == listing(two_bundles["global-mean"])


def test_a_writer_waits_for_the_one_before_it(two_bundles, tmp_path):
    out, saved = tmp_path / "bundle", threading.Event()
    recommender = ft.load(two_bundles["global-mean"])
    out.mkdir()

    def save() -> None:
        recommender.save(out)
        saved.set()

    with bundle.alone(out / bundle.LOCK):
        writer = threading.Thread(target=save)
        writer.start()
        assert not saved.wait(0.2)
        assert [path.name for path in out.iterdir()] == [bundle.LOCK]
    writer.join(30)
    assert saved.is_set()
    assert not (out / bundle.LOCK).exists()


def test_only_one_at_a_time_holds_a_lock_though_its_file_comes_and_goes(tmp_path):
    inside, most = [], []

    def work() -> None:
        for _ in range(100):
            with bundle.alone(tmp_path / "lock"):
                inside.append(1)
                most.append(len(inside))
                time.sleep(0)
                inside.pop()

    workers = [threading.Thread(target=work) for _ in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert (len(most), max(most)) == (600, 1)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("lacks", ["the platform", "the file system"])
def test_without_locks_a_lone_writer_writes_as_ever(lacks, recommender, tmp_path, monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    if lacks == "the platform":
        monkeypatch.setattr(bundle, "fcntl", None)
    else:
        monkeypatch.setattr(bundle.fcntl, "flock", refuse)
    recommender.save(tmp_path / "bundle")
    assert ft.load(tmp_path / "bundle")
    assert not (tmp_path / "bundle" / bundle.LOCK).exists()


def test_a_reader_needs_neither_the_lock_nor_leave_to_write(two_bundles, tmp_path):
    out = Path(shutil.copytree(two_bundles["global-mean"], tmp_path / "bundle"))
    with bundle.alone(out / bundle.LOCK):
        assert ft.load(out)


def test_a_model_file_replaced_while_it_is_mapped_makes_the_reader_begin_anew(
    two_bundles, tmp_path, monkeypatch
):
    out = Path(shutil.copytree(two_bundles["global-mean"], tmp_path / "bundle"))
    load_file, failed = bundle.load_file, []

    def gone_and_back(path: Path) -> Any:
        if not failed:
            failed.append(path)
            for name in ("embedding-net", "global-mean"):  # the file goes, and comes again
                ft.load(two_bundles[name]).save(out)
            raise RuntimeError(f"unable to open file <{path}> in read-only mode")
        return load_file(path)

    monkeypatch.setattr(bundle, "load_file", gone_and_back)
    assert ft.load(out).model.name == "global-mean"
    assert failed


def test_a_model_file_that_cannot_be_mapped_is_named(copy, monkeypatch):
    def refuse(path: Path) -> Any:
        raise RuntimeError(f"unable to mmap 512 bytes from file <{path}>: Cannot allocate memory")

    (path,) = copy.glob("model-*")
    monkeypatch.setattr(bundle, "load_file", refuse)
    assert refusal(copy) == (
        f"BUNDLE/{path.name}: cannot be read: unable to mmap 512 bytes from file "
        f"<BUNDLE/{path.name}>: Cannot allocate memory."
    )


# -- one way to replace a file


def test_a_file_is_replaced_in_one_step_by_bytes_text_or_a_function(tmp_path):
    path = tmp_path / "file"
    bundle.atomic_write(path, b"\xff")
    assert path.read_bytes() == b"\xff"
    bundle.atomic_write(path, "žluť\n")
    assert path.read_bytes() == "žluť\n".encode()

    def write(fresh: Path) -> None:
        assert fresh.parent == tmp_path
        assert path.read_text("utf-8") == "žluť\n", "the old file is there until the end"
        fresh.write_text("new")

    bundle.atomic_write(path, write)
    assert path.read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("error", [ZeroDivisionError("writing"), KeyboardInterrupt()])
def test_a_file_whose_writer_fails_stays_as_it_was_and_nothing_is_left(error, tmp_path):
    def fail(fresh: Path) -> None:
        fresh.write_text("half")
        raise error

    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(type(error)):
        bundle.atomic_write(path, fail)
    assert listing(tmp_path) == {"file": b"old"}


def replaces_a_file(call: ast.Call) -> bool:
    """Whether a call renames, locks or brings a file to the disk, or writes one in many steps."""
    if not isinstance(call.func, ast.Attribute):
        return False
    of, name = ast.unparse(call.func.value), call.func.attr
    if of in ("os", "shutil", "fcntl", "tempfile"):
        return name in ("fsync", "rename", "replace", "move", "flock", "lockf", "mkstemp")
    if name == "replace":  # of a path; a text takes two arguments, an expression a dictionary
        return len(call.args) == 1 and not call.keywords and not isinstance(call.args[0], ast.Dict)
    return name in ("write_text", "write_bytes")


def test_files_are_replaced_and_locked_nowhere_but_in_bundle():
    source = Path(bundle.__file__).parent
    found = {
        f"{path.relative_to(source)}: {ast.unparse(node)}"
        for path in source.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and replaces_a_file(node) and path.name != "bundle.py"
    }
    assert not found, f"use atomic_write, put_in_place or alone of bundle.py: {found}"
