"""Every command on small files: what it prints where, what it leaves, how it exits."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
import typer

import foretaste as ft
from foretaste import cli
from foretaste.cli.values import listed
from foretaste.data.catalog import CATALOG
from foretaste.experiments.recipes import recipe_names
from foretaste.models import MODELS
from foretaste.models.bayesian import sampling
from tests.conftest import synthetic
from tests.test_recipes import SMALL

COMMANDS = [name for name in cli.COMMANDS if name != "keys"]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with ratings.csv, clicks.csv and a bundle of a bias model."""
    folder = tmp_path_factory.mktemp("home")
    frame = synthetic(n_users=30, n_items=20, n_rows=320).frame().rename({"value": "rating"})
    frame = frame.with_columns(time=pl.col("time").dt.epoch("s"))
    frame.write_csv(folder / "ratings.csv")
    frame.select("user", "item").write_csv(folder / "clicks.csv")
    ft.fit(ft.Bias(), ft.read(folder / "ratings.csv"), progress=False).save(folder / "bundle")
    return folder


@pytest.fixture
def run(home, monkeypatch, capfd):
    """Runs a command line in the folder; returns exit code, standard output and standard error."""
    monkeypatch.chdir(home)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("FORETASTE_DATA", str(home / "data"))

    def run(line: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["foretaste", *shlex.split(line)])
        with pytest.raises(SystemExit) as exit_:
            cli.main()
        out, err = capfd.readouterr()
        code = exit_.value.code
        return (code if isinstance(code, int) else 0), out, err

    return run


@pytest.fixture
def answer(run):
    """The JSON object that a command prints, which must be all that it prints."""

    def answer(line: str) -> dict:
        code, out, err = run(f"{line} --json")
        assert (code, err) == (0, "")
        assert out.count("\n") == 1
        return json.loads(out)

    return answer


# -- help


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example_that_is_a_command(run, command):
    code, out, err = run(f"{command} --help")
    assert (code, err) == (0, "")
    examples = [line for line in out.splitlines() if "Example: " in line]
    assert len(examples) == 1
    words = shlex.split(examples[0].split("Example: ")[1].strip(" │"))
    assert words[:2] == ["foretaste", command]
    for option in (word for word in words if word.startswith("--")):
        assert option in out


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_the_line_of_a_command_in_the_list_is_the_first_of_its_help(name):
    first = cli.load(name).help.partition("\n\n")[0]
    assert cli.COMMANDS[name][1] == " ".join(first.split())


def test_a_command_that_does_not_exist_is_answered_with_one_that_does(run):
    code, _, err = run("trian ratings.csv")
    assert code == 2
    said = " ".join(err.replace("│", " ").split())
    assert "No such command 'trian'. Did you mean 'train'" in said


def test_version_says_which_foretaste_this_is(run):
    assert run("--version") == (0, f"foretaste {ft.__version__}\n", "")
    assert ft.__version__ == "0.2.0"


def test_the_keys_of_a_service_have_commands_of_their_own(run):
    code, out, _ = run("keys --help")
    assert code == 0
    assert all(f" {command} " in out for command in ("create", "list", "revoke"))
    assert "completion" not in out


def test_foretaste_alone_lists_the_commands(run):
    code, out, _ = run("")
    assert code in (0, 2)
    assert all(f" {command} " in out for command in COMMANDS)


# -- the way through: check, train, recommend, predict, similar, evaluate


def test_check_says_what_is_in_the_file_and_what_models_would_cost(run, answer):
    code, out, err = run("check ratings.csv")
    assert (code, err) == (0, "")
    assert "ratings: 320 ratings" in out
    assert "30 users, 20 items, 53.33% of all pairs." in out
    assert all(name in out for name in MODELS)
    said = answer("check ratings.csv")
    assert (said["users"], said["items"], said["interactions"]) == (30, 20, 320)
    assert said["costs"].keys() == MODELS.keys()


def test_check_of_clicks_names_only_models_for_clicks(answer):
    assert "bias" not in answer("check clicks.csv")["costs"]


def test_columns_can_be_named(answer, home):
    frame = pl.read_csv(home / "ratings.csv").rename({"user": "who", "item": "what"})
    frame.write_csv(home / "odd.csv", separator=";")
    said = answer("check odd.csv --user-column who --item-column what --separator ;")
    assert said["interactions"] == 320


def test_train_writes_a_bundle_and_says_what_to_run_next(run, home):
    code, out, err = run("train ratings.csv --model bias --set l2-user=9 --seed 3 --out trained")
    assert (code, err) == (0, "")
    recommender = ft.load(home / "trained")
    assert recommender.model.hyperparameters()["l2_user"] == 9.0
    assert recommender.training["seed"] == 3
    assert len(recommender.dataset) == 320
    following = out.splitlines()[-1]
    assert following == "Next: foretaste recommend trained --user u0"
    code, out, _ = run(following.removeprefix("Next: foretaste "))
    assert code == 0
    assert "rank" in out


SMALL_NET = (
    "train ratings.csv --set n_factors=4 --set hidden=[8] --set dropouts=[0.1] --set batch_size=100"
    " --set epochs=2"
)


def test_a_chain_that_has_not_mixed_is_said_so_by_train_and_evaluate(run, monkeypatch):
    monkeypatch.setattr(sampling, "MIXED", 0.5)
    fields = "--set n_factors=2 --set samples=12 --set burn_in=2 --set keep_every=1"
    for command in ("train ratings.csv --out mixed", "evaluate ratings.csv"):
        code, out, _ = run(f"{command} --model bayesian-mf {fields}")
        assert code == 0
        assert "Note: the chain has not mixed: of ten predictions watched, one has" in out


def test_train_draws_the_learning_curve_beside_the_bundle(answer, home):
    said = answer(f"{SMALL_NET} --out net")
    assert said["bundle"] == "net"
    assert said["model"] == "embedding-net"
    assert [Path(p).name for p in said["curve"]] == ["curve.png", "curve.svg"]
    assert all((home / p).stat().st_size > 1000 for p in said["curve"])
    assert not list((home / "net.training").glob("*.checkpoint"))


def test_a_checkpoint_of_another_run_is_refused_and_fresh_forgets_it(run, home):
    left = home / "again.training"
    left.mkdir()
    (left / "choose.checkpoint").write_bytes(b"not a checkpoint")
    code, _, err = run(f"{SMALL_NET} --out again")
    assert code == 1
    assert err == (
        "error: again.training/choose.checkpoint: the checkpoint is damaged. "
        "Start again with --fresh, which removes it.\n"
    )
    assert run(f"{SMALL_NET} --out again --fresh")[0] == 0


def test_a_bundle_is_replaced_but_nothing_else_is(run, home):
    assert run("train ratings.csv --model popularity --out over")[0] == 0
    assert run("train ratings.csv --model bias --out over")[0] == 0
    assert ft.load(home / "over").model.name == "bias"
    (home / "mine").mkdir()
    (home / "mine" / "thesis.txt").write_text("years of work")
    code, _, err = run("train ratings.csv --model bias --out mine")
    assert code == 1
    assert err == (
        "error: mine: exists and is not a bundle: nothing was written. Choose another --out.\n"
    )
    assert [p.name for p in (home / "mine").iterdir()] == ["thesis.txt"]
    assert not (home / "mine.training").exists()


def test_recommend_lists_for_a_user_what_the_library_lists(answer, home):
    rows = answer("recommend bundle --user u1 -k 4")["rows"]
    assert rows == ft.load(home / "bundle").recommend("u1", k=4).to_dicts()
    seen = answer("recommend bundle --user u1 -k 100 --include-seen")["rows"]
    assert len(seen) == 20


def test_recommend_takes_a_history_with_or_without_ratings(answer, home):
    bundle = ft.load(home / "bundle")
    liked = answer('recommend bundle --history "i1, i2"')["rows"]
    assert liked == bundle.recommend(history=["i1", "i2"]).to_dicts()
    rated = answer('recommend bundle --history "i1=5,i2=2"')["rows"]
    assert rated == bundle.recommend(history={"i1": 5, "i2": 2}).to_dicts()
    assert len(answer('recommend bundle --history ""')["rows"]) == 10


def test_recommend_filters_and_excludes(answer):
    rows = answer("recommend bundle --history i9 --where \"item < 'i2'\" --exclude i1,i10")["rows"]
    assert {row["item"] for row in rows} == {"i0", *(f"i1{n}" for n in range(1, 10))}


def test_a_list_on_a_terminal_is_a_table(run):
    code, out, err = run("recommend bundle --user u1 --k 3")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].split() == ["item", "score", "rank"]
    assert [line.split()[-1] for line in lines[1:]] == ["1", "2", "3"]


def test_an_empty_list_says_so(run, answer):
    line = "recommend bundle --user u1 --where \"item = 'x'\""
    code, out, err = run(line)
    assert (code, err) == (0, "")
    assert out == "Nothing to list: no item is left that may be shown.\n"
    assert answer(line) == {"rows": []}


def test_predict_rates_items_for_a_user_or_a_new_user(answer, home):
    bundle = ft.load(home / "bundle")
    rows = answer("predict bundle --user u1 --items i1,i2")["rows"]
    assert rows == bundle.predict(["u1"], ["i1", "i2"]).to_dicts()
    rows = answer("predict bundle --history i3=1 --item i1")["rows"]
    assert rows == bundle.predict(items=["i1"], history={"i3": 1}).to_dicts()


@pytest.mark.parametrize("command", ["recommend", "predict --item i1", "explain --item i1"])
def test_about_is_still_understood_as_user_features(run, command):
    name, _, rest = command.partition(" ")
    line = f"{name} bundle {rest} --history i3=1"
    new, old = (run(f"{line} {option} town=York") for option in ("--user-features", "--about"))
    assert new == old
    assert new[0] == 2
    assert "users have no column 'town'." in new[2]


def test_similar_lists_neighbours(answer, run):
    assert run(f"{SMALL_NET} --out near --fresh")[0] == 0
    rows = answer("similar near i3 -k 5")["rows"]
    assert len(rows) == 5
    assert "i3" not in [row["item"] for row in rows]


def test_evaluate_puts_a_model_beside_the_baselines(answer, run):
    line = "evaluate ratings.csv --model bias --split time --test 0.3 --k 5"
    reports = answer(line)["reports"]
    assert list(reports) == ["global-mean", "bias", "random", "popularity", "recent-popularity"]
    bias = reports["bias"]["metrics"]
    assert bias["rmse"]["low"] < bias["rmse"]["value"] < bias["rmse"]["high"]
    assert "ndcg@5" in bias
    assert "rmse" not in reports["popularity"]["metrics"]
    code, out, _ = run(line)
    assert code == 0
    assert "ratings: global time split: the newest 30% of interactions; 96 test interactions" in out
    assert all(word in out for word in ("global-mean", "popularity", "rmse", "recall@5", "95 %"))


@pytest.fixture
def small_movielens(home, monkeypatch):
    """A data folder whose ml-100k is 320 synthetic ratings in the published layout."""
    folder = home / "data" / "ml-100k"
    folder.mkdir(parents=True, exist_ok=True)
    number = pl.col("user", "item").str.slice(1).cast(pl.Int64) + 1
    rows = pl.read_csv(home / "ratings.csv").with_columns(number, pl.col("rating").cast(pl.Int64))
    rows.write_csv(folder / "u.data", separator="\t", include_header=False)
    films = [f"{i}|Film {i} ({1980 + i})|01-Jan-{1980 + i}||" + "|0" * 19 for i in range(1, 21)]
    (folder / "u.item").write_text("\n".join(films) + "\n", "latin-1")
    (folder / "u.user").write_text("".join(f"{u}|33|F|other|55105\n" for u in range(1, 31)))
    monkeypatch.setattr("foretaste.data.catalog.DataFile.wrong", lambda self, path: "")
    (home / "met.toml").write_text(SMALL)
    (home / "missed.toml").write_text(SMALL.replace("1.1", "0.01"))


@pytest.mark.usefixtures("small_movielens")
def test_a_recipe_says_whether_its_target_is_met_and_so_does_the_exit_code(run, answer):
    said = answer("evaluate --recipe met.toml")
    assert said["recipe"] == "met"
    assert said["met"] is True
    assert said["target"] == [{"metric": "rmse", "at_most": 1.1, "source": "a test"}]
    assert {"metrics", "fit_seconds", "score_seconds", "peak_memory_bytes"} <= said.keys()
    code, out, _ = run("evaluate --recipe met.toml")
    assert code == 0
    assert "target at most 1.1: met. a test" in out
    code, out, err = run("evaluate --recipe missed.toml --json")
    assert (code, err) == (1, "")
    assert json.loads(out)["met"] is False
    code, out, _ = run("evaluate --recipe missed.toml")
    assert code == 1
    assert "target at most 0.01: MISSED. a test" in out


@pytest.mark.usefixtures("small_movielens")
def test_a_public_data_set_is_a_source_like_a_file_with_titles_to_show(run, answer):
    assert answer("check ml-100k")["interactions"] == 320
    assert answer("fetch ml-100k --offline")["name"] == "ml-100k"
    assert run("train ml-100k --model bias --out films")[0] == 0
    rows = answer('recommend films --user 1 --where "year >= 1995"')["rows"]
    assert rows[0]["title"].startswith("Film ")
    assert all(row["year"] >= 1995 for row in rows)
    code, _, err = run("check ml-100k --user-column who")
    assert code == 2
    assert err == "error: ml-100k is a public data set: its columns are known. Leave them out.\n"


def test_fetch_without_a_name_lists_what_there_is(run, answer):
    code, out, err = run("fetch")
    assert (code, err) == (0, "")
    assert all(name in out for name in CATALOG)
    assert {row["name"] for row in answer("fetch")["data"]} == set(CATALOG)


def test_doctor_says_what_this_installation_has(run, answer, home):
    code, out, err = run("doctor")
    assert (code, err) == (0, "")
    assert "torch" in out
    said = answer("doctor")
    assert said["foretaste"] == ft.__version__
    assert said["data_folder"] == str(home / "data")


# -- errors


LOOK = "Ids here look like"
RECIPES = ", ".join(recipe_names())


@pytest.mark.parametrize(
    ("line", "code", "message"),
    [
        ("check nope.csv", 1, "nope.csv: there is no such file."),
        ("train nope.csv", 1, "nope.csv: there is no such file."),
        ("train ratings.csv --model biass", 2, "there is no model 'biass'. Did you mean bias?"),
        (
            "train ratings.csv --model bias --set l2_usr=3",
            2,
            "bias has no field 'l2_usr'. Did you mean l2_user?",
        ),
        (
            "train ratings.csv --model bias --set l2_user",
            2,
            "--set l2_user. Write --set name=value.",
        ),
        (
            "train ratings.csv --model bias --set l2_user=x",
            2,
            "bias: field 'l2_user': got 'x'. Input should be a valid number, "
            "unable to parse string as a number.",
        ),
        ("train clicks.csv", 1, "embedding-net needs ratings, and clicks has none."),
        (
            "train ratings.csv --precision half",
            2,
            "precision='half'. Use one of float32, bfloat16.",
        ),
        (
            "train ratings.csv --model bias --device gpu",
            2,
            "device='gpu': Expected one of cpu, cuda",
        ),
        ("check ratings.csv --bad-rows x", 2, "bad_rows='x'. Use error or drop."),
        ("check ratings.csv --user-column who", 1, "ratings.csv: there is no column 'who'"),
        (
            "recommend nothing --user u1",
            1,
            "nothing: there is no bundle here: manifest.json is missing. "
            "Make one with `foretaste train ... --out` or Recommender.save.",
        ),
        (
            "recommend ratings.csv --user u1",
            1,
            "ratings.csv: is not a folder. Name a bundle folder.",
        ),
        (
            "recommend bundle",
            2,
            "give either --user or --history. Describe a new user: --history 50=5,172=3.",
        ),
        ("recommend bundle --user u1 --history i1", 2, "give either --user or --history."),
        (
            "recommend bundle --user zz",
            1,
            f"unknown user 'zz'. {LOOK} u0, u1, u10 (30 in all). "
            "For someone new, give a history: what they have seen or rated.",
        ),
        (
            "similar bundle zz",
            1,
            f"unknown item 'zz'. {LOOK} i0, i1, i10 (20 in all).",
        ),
        (
            "recommend bundle --history i1=5,i2",
            2,
            "--history: got 'i2'. Write ids, or id=rating for each: 50=5,172=2.5.",
        ),
        (
            "recommend bundle --history i1=9",
            2,
            "history: item 'i1': got the value 9.0. Ratings lie in 1 to 5.",
        ),
        ("recommend bundle --user u1 --k 0", 2, "k=0. Ask for at least one item."),
        (
            "recommend bundle --user u1 --where 'yaer > 1990'",
            2,
            "where: there is no column 'yaer'. Columns: item.",
        ),
        ("predict bundle --items i1", 2, "give either --user or --history."),
        ("evaluate", 2, "give a table or --recipe. foretaste evaluate --help shows both."),
        ("evaluate --recipe nope", 2, f"there is no recipe 'nope'. There are {RECIPES}."),
        ("evaluate --recipe nope.toml", 2, "nope.toml: there is no such file. Name a TOML file."),
        (
            "evaluate ratings.csv --split nope",
            2,
            "no split 'nope' of 'ratings'. Use one of random, leave-last, next-item, time, users.",
        ),
        (
            "evaluate ratings.csv --test 2",
            2,
            "test=2.0, hidden=0.2. Fractions lie between 0 and 1.",
        ),
        ("evaluate ratings.csv --model bias --k 0", 2, "k=0. Lists have at least one item."),
        ("fetch nope", 2, "no data set 'nope' in the catalog. Use one of ml-100k, "),
        ("fetch ml-1m --offline", 1, "ml-1m cannot be fetched; tried nothing, offline as asked."),
    ],
)
def test_an_error_is_one_clear_message_and_an_exit_code(run, line, code, message):
    got, out, err = run(line)
    assert (got, out) == (code, "")
    assert err.startswith(f"error: {message}")
    assert "Traceback" not in err
    got, out, err = run(f"{line} --json")
    assert (got, err) == (code, "")
    said = json.loads(out)["error"]
    assert said.keys() == {"what", "where", "fix"}
    assert said["fix"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("nope", "No such command 'nope'."),
        ("check --nope", "No such option: --nope"),
        ("check", "Missing argument 'source'."),
        ("predict bundle --user u1", "Missing option '--items'"),
        ("recommend bundle --user u1 -k ten", "Invalid value for '--k'"),
    ],
)
def test_wrong_usage_exits_with_2_and_says_what_is_wrong(run, line, said):
    code, out, err = run(line)
    assert (code, out) == (2, "")
    assert said in err
    assert "Traceback" not in err


def test_a_bad_rating_is_named_by_file_line_and_column(run, home):
    (home / "bad.csv").write_text("user,item,rating\na,1,4\na,2,4;5\n")
    code, _, err = run("train bad.csv --model bias --out x")
    assert code == 1
    assert "bad.csv:3: column 'rating': got '4;5'." in err
    assert not (home / "x").exists()


# -- as a process


def foretaste(line, folder):
    """The line in a shell, where `foretaste` is this Python's."""
    program = f"{shlex.quote(sys.executable)} -c 'from foretaste.cli import main; main()'"
    return subprocess.run(
        ["bash", "-c", line.replace("foretaste", program)],
        check=False, cwd=folder, capture_output=True, text=True, timeout=60,
    )  # fmt: skip


def test_a_process_exits_as_the_command_does_and_keeps_its_streams_apart(home):
    done = foretaste("foretaste recommend bundle --user u1 -k 3 --json", home)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(json.loads(done.stdout)["rows"]) == 3
    failed = foretaste("foretaste recommend bundle --user zz", home)
    assert (failed.returncode, failed.stdout) == (1, "")
    assert failed.stderr.startswith("error: unknown user 'zz'.")


def test_a_reader_that_has_seen_enough_is_no_error_to_report(home):
    assert foretaste("foretaste check ratings.csv | true", home).stderr == ""


# -- demo


@pytest.mark.slow
def test_the_demo_ends_by_itself_and_every_command_it_suggests_works(run, home):
    code, out, _ = run("demo --data ratings.csv --out 'my demo'")
    assert code == 0
    for part in ("1. Fetch", "2. Train", "3. How good", "4. Ten for user", "5. Ten for a new user"):
        assert part in out
    assert "global-mean" in out
    assert (home / "my demo.training" / "curve.svg").is_file()
    _, _, following = out.partition("Try next\n")
    lines = [line.strip() for line in following.splitlines() if "foretaste " in line]
    suggested = [line for line in lines if " serve " not in line]
    assert len(suggested) == 5
    for line in suggested:
        ours = line.replace("your-ratings.csv", "ratings.csv").removeprefix("foretaste ")
        code, out, err = run(ours.replace("--model embedding-net", "--model bias"))
        assert code == 0, err
        assert out


@pytest.mark.slow
def test_the_demo_in_json_is_one_object(run, home):
    code, out, _ = run("demo --data ratings.csv --out machine --json")
    assert code == 0
    said = json.loads(out)
    assert said["bundle"] == "machine"
    assert "global-mean" in said["reports"]
    assert len(ft.load(home / "machine").recommend("u1")) > 0


def test_commands_are_the_functions_that_the_app_knows():
    assert isinstance(cli.app, typer.Typer)
    assert {"demo", "fetch", "check", "train", "evaluate", "recommend", "predict"} <= set(COMMANDS)
    assert {"similar", "doctor"} <= set(COMMANDS)


def test_explain_says_what_carries_an_item_and_where_it_stands(home, run, answer):
    ratings = ft.read(home / "ratings.csv")
    ft.fit(ft.EASE(), ratings, progress=False).save(home / "ease")
    user = str(ratings.users.values[0])
    item = answer(f"recommend ease --user {user} --k 3 --json")["rows"][1]["item"]
    found = answer(f"explain ease --user {user} --item {item} --json")
    assert found["place"]["rank"] == 2
    assert sum(row["share"] for row in found["rows"]) == pytest.approx(1)
    code, out, _ = run(f"explain ease --user {user} --item {item}")
    assert code == 0
    assert f"It is number 2 of {found['place']['candidates']} candidates." in out


def test_evaluate_shows_diverse_lists_beside_the_plain_ones(answer):
    found = answer("evaluate ratings.csv --model ease --diversity 0.5 --json")["reports"]
    plain, diverse = found["ease"]["metrics"], found["ease, diversity 0.5"]["metrics"]
    assert plain["ndcg@10"]["value"] != diverse["ndcg@10"]["value"]


def test_recommend_for_all_users_writes_a_file(run, answer, home):
    told = answer("recommend bundle --all-users --out recs.parquet -k 3")
    assert told["users"] == len(ft.load(home / "bundle").dataset.users)
    assert pl.read_parquet(home / "recs.parquet").height == 3 * told["users"]
    for line in (
        "recommend bundle --all-users", "recommend bundle --user u1 --out recs.parquet",
        "recommend bundle --user u1 --all-users --out recs.parquet",
    ):  # fmt: skip
        status, _, said = run(line)
        assert status == 2
        assert "--all-users and --out go together, without --user and --history." in said


# -- tables of items


@pytest.fixture(scope="module")
def films(home):
    """films.csv for the items of ratings.csv and new.csv for another one, known by links.csv."""
    items = ft.read(home / "ratings.csv").items.values
    plots = ["the dark knight guards a city", "two lovers on a ship that sinks"]
    table = pl.DataFrame({"item": items, "overview": [plots[i % 2] for i in range(len(items))]})
    table.write_csv(home / "films.csv")
    pl.DataFrame(
        {"item": ["new"], "overview": ["a knight, a city, a ship"], "colour": ["red"]}
    ).write_csv(home / "new.csv")
    numbered = table.with_columns(id=pl.int_range(pl.len()))
    numbered.select("id", "overview").write_csv(home / "tmdb.csv")
    numbered.select("item", tmdbId="id").write_csv(home / "links.csv")


def test_check_shows_how_the_columns_of_items_are_read(films, run, answer):
    (column,) = answer("check ratings.csv --items films.csv")["item_columns"]
    assert column["name"] == "overview"
    assert (column["kind"], column["filled"]) == ("category", 1.0)
    _, out, _ = run("check ratings.csv --items films.csv")
    assert "Item columns, as models of content read them" in out
    assert "overview" in out
    linked = answer("check ratings.csv --items tmdb.csv --links links.csv")["item_columns"]
    assert linked == [column]


def test_new_items_join_a_bundle_without_training(films, run, answer):
    code, _, _ = run("train ratings.csv --items films.csv --model plot-similarity --out plots")
    assert code == 0
    code, out, _ = run("add-items plots new.csv --out grown")
    assert code == 0
    assert "1 items added, 21 in all." in out
    assert "Next: foretaste similar grown new" in out
    assert answer("add-items plots new.csv --out grown")["added"] == ["new"]
    listed = answer("recommend grown --user u1 -k 30")["rows"]
    assert "new" in [row["item"] for row in listed]
    assert len(answer("similar grown new -k 3")["rows"]) == 3
    code, _, err = run("add-items grown new.csv --out again")
    assert code == 2
    assert "item 'new' is there already, or twice." in err
    code, _, err = run("add-items bundle new.csv --out again")
    assert code == 1
    assert "bias is no model that places new items." in err


def test_links_need_a_table_that_they_lead_to(films, run):
    code, _, err = run("train ratings.csv --links links.csv --model plot-similarity")
    assert code == 2
    assert "--links without --items. Name the table that they lead to." in err


def test_long_cells_are_cut_and_columns_without_room_are_named(films, run, home):
    wide = pl.read_csv(home / "films.csv").with_columns(
        *(pl.lit(f"{name} " * 20).alias(name) for name in "abcd"), title=pl.lit("Film")
    )
    wide.write_csv(home / "wide.csv")
    assert run("train ratings.csv --items wide.csv --model plot-similarity --out wide")[0] == 0
    _, out, _ = run("recommend wide --user u1 -k 3")
    header, *rows, left_out = out.splitlines()
    assert header.split() == ["item", "score", "rank", "overview", "title"]
    assert len(rows) == 3
    assert all(row.rstrip().endswith("Film") for row in rows)
    assert left_out == "Not shown, --json has them: a, b, c, d."


# Ids with commas and equals signs


ODD = ["a,b", "x=5", 'say "hi"', " blank ", "plain", "é", "1e3"]


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    """A bundle whose items have commas, equals signs, quotes and blanks in their ids."""
    bundle = tmp_path_factory.mktemp("odd") / "bundle"
    rows = [(u, i, 1 + (u + n) % 5) for u in range(6) for n, i in enumerate(ODD)]
    ratings = ft.from_frame(pl.DataFrame(rows, ["user", "item", "rating"], orient="row"))
    ft.fit(ft.Bias(), ratings, progress=False).save(bundle)
    return bundle


@pytest.mark.parametrize("item", ODD)
def test_any_id_can_be_excluded_and_be_a_history_on_the_command_line(answer, odd, item, tmp_path):
    def items(*options: str) -> list[str]:
        line = ["recommend", str(odd), "--user", "1", "--include-seen", *options]
        asked = answer(shlex.join(line))
        assert "unknown" not in asked
        return [row["item"] for row in asked["rows"]]

    quoted = listed([item])
    assert sorted(items("--exclude", quoted)) == sorted(set(ODD) - {item})
    assert sorted(items("--exclude", listed([item, "plain"]))) == sorted({*ODD} - {item, "plain"})
    twice = items("--exclude", quoted, "--exclude", "plain")
    assert sorted(twice) == sorted({*ODD} - {item, "plain"})
    for history in (quoted, f"{quoted}=4"):
        rows = answer(shlex.join(["recommend", str(odd), "--history", history]))
        assert "unknown" not in rows
        assert sorted(row["item"] for row in rows["rows"]) == sorted(set(ODD) - {item})
    rows = answer(shlex.join(["predict", str(odd), "--user", "1", "--items", quoted]))["rows"]
    assert [row["item"] for row in rows] == [item]
    table = tmp_path / "history.csv"
    for frame in (pl.DataFrame({"item": [item]}), pl.DataFrame({"item": [item], "rating": [4]})):
        frame.write_csv(table)
        rows = answer(shlex.join(["recommend", str(odd), "--history-file", str(table)]))
        assert "unknown" not in rows
        assert sorted(row["item"] for row in rows["rows"]) == sorted(set(ODD) - {item})


def test_an_equals_sign_in_an_exclusion_is_part_of_the_id(answer, odd):
    asked = answer(f"recommend {odd} --user 1 --include-seen --exclude plain=5")
    assert asked["unknown"] == {"exclude": ["plain=5"]}
    assert "plain" in [row["item"] for row in asked["rows"]]


def test_a_history_file_of_an_id_a_line_and_one_option_too_many(run, answer, odd, tmp_path):
    ids = tmp_path / "ids.txt"
    ids.write_text("plain\nx=5\n")
    rows = answer(f"recommend {odd} --history-file {ids}")["rows"]
    assert {"plain", "x=5"} & {row["item"] for row in rows} == set()
    assert len(rows) == len(ODD) - 2
    code, _, err = run(f"recommend {odd} --history-file {ids} --history plain")
    assert (code, "--history and --history-file. Give one of them." in err) == (2, True)
    code, _, err = run(f"recommend {odd} --history-file {tmp_path / 'none.csv'}")
    assert (code, "there is no such file" in err) == (1, True)


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--history 'x=a'", "--history: got 'x=a'. Write ids, or id=rating for each"),
        ("""--history '"x"y'""", "--history: got 'y' behind a quote. An id with a comma"),
        ("""--user 1 --exclude '"x" y'""", "--exclude: got 'y' behind a quote. An id with a comma"),
    ],
)
def test_a_list_of_ids_that_cannot_be_read_shows_the_quotes(run, odd, option, said):
    code, _, err = run(f"recommend {odd} {option}")
    assert code == 2
    assert said in " ".join(err.split())


def test_the_layout_of_a_file_is_an_option_of_every_command_that_reads_data(run, home):
    (home / "sessions.txt").write_text("5,7,9\n5,9\n7,5,2\n")
    code, out, _ = run("check sessions.txt --layout sessions")
    assert (code, "3 users, 4 items" in out) == (0, True)
    for command in ("check", "train", "evaluate", "compare"):
        code, _, err = run(f"{command} sessions.txt --layout list")
        assert (code, "layout='list'. Use one of table, wide, lists" in " ".join(err.split())) == (
            2, True,
        )  # fmt: skip


def test_a_join_that_loses_items_is_said_on_the_terminal(run, home):
    (home / "films.csv").write_text("item,title\ni1,A\ni2,B\nx9,C\n")
    code, out, err = run("check ratings.csv --items films.csv")
    assert code == 0
    for text in (out, err):
        assert "18 of 20 items have no line in the table of items" in " ".join(text.split())
