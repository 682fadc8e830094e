"""The page, in a real browser against a real service; screenshots land in build/screenshots."""

from __future__ import annotations

import dataclasses
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Generator, Iterator
from pathlib import Path

import polars as pl
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect, sync_playwright

import foretaste as ft
from tests.conftest import synthetic

SHOTS = Path(__file__).parents[1] / "build" / "screenshots"
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update",
]  # fmt: skip
HOSTILE = '<img src=x onerror="document.title=1"> & "quotes"'


def bundle(folder: Path) -> Path:
    """Forty films with titles, years and genres; ratings by sixty people."""
    ratings = synthetic()
    ids = ratings.items.values
    genres = ["Drama", "Comedy|Drama", "Horror", "Science Fiction|Horror"]
    films = pl.DataFrame(
        {
            "item": ids,
            "title": [HOSTILE if n == 7 else f"Film {name[1:]}" for n, name in enumerate(ids)],
            "year": [1960 + n for n in range(len(ids))],
            "genres": [genres[n % 4] for n in range(len(ids))],
        }
    )
    ratings = dataclasses.replace(ratings, item_table=films, name="films")
    model = ft.BayesianMF(n_factors=4, burn_in=5, samples=20)
    return ft.fit(model, ratings, progress=False).save(folder / "bundle")


def served(folder: Path) -> Generator[tuple[str, subprocess.Popen[bytes]], None, None]:
    """The address of a running service, and its process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = "from foretaste.cli import main; main()"
    line = [sys.executable, "-c", program, "serve", str(bundle(folder)), "--port", str(port)]
    process = subprocess.Popen(line, stdout=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    try:
        until = time.monotonic() + 60
        while time.monotonic() < until:
            assert process.poll() is None, "the service ended at once"
            try:
                urllib.request.urlopen(f"{address}/health/ready")  # noqa: S310 -- our own address
                break
            except OSError:
                time.sleep(0.1)
        yield address, process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(20)


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    yield from served(tmp_path_factory.mktemp("page"))


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        path = os.environ.get("CHROMIUM", "/usr/bin/chromium")
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def page(service, chromium, request) -> Iterator[Page]:
    """A fresh visitor; any complaint on the console fails the test."""
    context = chromium.new_context(**getattr(request, "param", {}))
    page, complaints = context.new_page(), []
    page.on("console", lambda m: complaints.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(service[0])
    expect(page.locator("#list li").first).to_be_visible()
    yield page
    context.close()
    assert not complaints


def titles(page: Page) -> list[str]:
    return page.locator("#list li .name").all_inner_texts()


def rate(page: Page, title: str, stars: int) -> None:
    page.get_by_label("Find something you know").fill(title)
    page.get_by_role("option", name=title).first.click()
    dialog = page.get_by_role("dialog")
    dialog.locator(f".stars label:nth-of-type({stars})").click()
    dialog.get_by_role("button", name="Close").click()
    expect(page.locator("#liststate")).to_contain_text("of your ratings")
    expect(page.locator("#list").get_by_role("button", name=title, exact=True)).to_have_count(0)


def shot(page: Page, name: str) -> None:
    SHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SHOTS / f"{name}.png")


def test_three_ratings_change_the_list_which_says_why_and_a_reload_keeps_them(page):
    before = titles(page)
    for title, stars in (("Film 12", 5), ("Film 33", 1), ("Film 5", 4)):
        rate(page, title, stars)
    expect(page.locator("#liststate")).to_have_text("from 3 of your ratings")
    expect(page.locator("#rated li")).to_have_count(3)
    after = titles(page)
    assert after != before
    assert not {"Film 12", "Film 33", "Film 5"} & set(after)
    expect(page.locator("#list .why").first).to_contain_text("because you rated Film")
    expect(page.locator("#list .expected").first).to_contain_text("±")
    shot(page, "for-you")
    page.reload()
    expect(page.locator("#liststate")).to_have_text("from 3 of your ratings")
    assert titles(page) == after
    page.get_by_role("button", name="Remove Film 33").click()
    expect(page.locator("#liststate")).to_have_text("from 2 of your ratings")


def test_the_page_starts_with_what_many_people_know_until_three_are_rated(page):
    popular = page.locator("#popular li")
    expect(popular).to_have_count(6)
    shot(page, "start")
    counts = synthetic().frame()["item"].value_counts(sort=True)["count"]
    named = popular.locator(".name").all_inner_texts()
    assert len(set(named)) == 6
    least = counts[5]
    every = synthetic().frame()["item"].value_counts()
    of = dict(zip(every["item"], every["count"], strict=True))
    assert all(of["i" + n.removeprefix("Film ")] >= least for n in named if n.startswith("Film"))
    for left in (5, 4):
        popular.first.locator(".stars label").last.click()
        expect(popular).to_have_count(left)
    popular.first.locator(".stars label").last.click()
    expect(page.locator("#popular")).to_be_hidden()
    expect(page.locator("#rated li")).to_have_count(3)
    expect(page.locator("#liststate")).to_have_text("from 3 of your ratings")


def test_the_keyboard_alone_finds_and_rates(page):
    field = page.get_by_label("Find something you know")
    field.press_sequentially("film 2")
    expect(page.get_by_role("option").first).to_be_visible()
    field.press("ArrowDown")
    field.press("Enter")
    dialog = page.get_by_role("dialog")
    name = dialog.get_by_role("heading").first.inner_text()
    dialog.get_by_role("radio").nth(3).focus()
    page.keyboard.press("Space")
    page.keyboard.press("Escape")
    expect(page.locator("#rated li .name")).to_have_text([name])


def test_filters_keep_to_years_and_genres_and_say_when_nothing_is_left(page):
    page.get_by_label("year, from").fill("1990")
    page.get_by_role("checkbox", name="Horror", exact=True).check()
    expect(page.locator("#list .what .quiet").first).to_contain_text("Horror")
    expect(page.locator("#list .what .quiet").filter(has_not_text="Horror")).to_have_count(0)
    years = [int(t.split(" ")[0]) for t in page.locator("#list li .what .quiet").all_inner_texts()]
    assert min(years) >= 1990
    page.get_by_label("year, from").fill("1999")
    page.get_by_label("year, to").fill("1998")
    expect(page.locator("#list .empty")).to_have_text(
        "No item passes these filters. Widen a range, or clear them."
    )
    shot(page, "nothing-left")
    page.get_by_role("button", name="Clear filters").click()
    expect(page.locator("#list li")).to_have_count(20)


def test_variety_changes_the_list_below_its_first_place(page):
    rate(page, "Film 12", 5)
    expect(page.locator("#liststate")).to_have_text("from 1 of your ratings")
    plain = titles(page)
    page.get_by_label("Variety").fill("0.9")
    expect(page.locator("#list li .name").nth(1)).not_to_have_text(plain[1])
    assert titles(page)[0] == plain[0]


def test_an_item_says_where_it_stands_and_what_is_like_it(page):
    rate(page, "Film 12", 5)
    page.locator("#list li .name").nth(2).click()
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_text("It is number 3 of 39 candidates.")).to_be_visible()
    expect(dialog.locator(".bars")).to_contain_text("Film 12")
    expect(dialog.locator("ol.small li")).to_have_count(6)
    shot(page, "item")
    page.keyboard.press("Escape")
    page.locator("#rated .name").click()
    expect(dialog.get_by_text("It is in the history")).to_be_visible()


def test_titles_are_text_whatever_they_hold(page):
    page.get_by_label("Find something you know").fill("onerror")
    expect(page.get_by_role("option").first).to_contain_text(HOSTILE)
    page.get_by_role("option").first.click()
    expect(page.get_by_role("dialog").get_by_role("heading").first).to_have_text(HOSTILE)
    assert page.title() == "foretaste"


def test_the_map_shows_every_item_and_names_what_is_under_the_pointer(page):
    rate(page, "Film 12", 5)
    page.get_by_role("link", name="Map").click()
    expect(page.get_by_text("40 items; near means alike to the model")).to_be_visible()
    expect(page.locator("#map [role=status]")).to_contain_text("You rated: Film 12.")
    expect(page.locator(".key")).to_contain_text("Drama")
    box = page.locator("canvas").bounding_box()
    assert box is not None
    found = False
    for step in range(60):  # along a spiral until something is named
        x = box["x"] + box["width"] * (0.5 + 0.006 * step * (-1) ** step)
        page.mouse.move(x, box["y"] + box["height"] * (0.3 + 0.007 * step))
        found = found or page.locator(".tip").is_visible()
    assert found
    page.get_by_role("button", name="Zoom in").click()
    page.locator("canvas").press("ArrowLeft")
    shot(page, "map")


def test_the_card_says_what_was_learned_from_what(page):
    page.get_by_role("link", name="Model").click()
    expect(page.get_by_text("900 ratings from 1 to 5 by 60 users of 40 items")).to_be_visible()
    shot(page, "model")


PHONE = {"viewport": {"width": 390, "height": 844}}
DARK = {"color_scheme": "dark"}


@pytest.mark.parametrize("page", [{}, DARK, PHONE], ids=["light", "dark", "phone"], indirect=True)
def test_nothing_serious_stands_between_the_page_and_a_screen_reader(page, request):
    kind = request.node.callspec.id
    rate(page, "Film 12", 5)
    expect(page.locator("#list .why").first).to_be_visible()
    for view in ("for-you", "map", "model"):
        page.goto(page.url.partition("#")[0] + f"#{view}")
        expect(page.locator(f"#view-{view}")).to_be_visible()
        shot(page, f"{kind}-{view}")
        wide = page.evaluate("document.documentElement.scrollWidth - innerWidth")
        assert wide <= 0, f"{view} scrolls sideways"
        found = Axe().run(page).response["violations"]
        serious = [
            (v["id"], v["nodes"][0]["html"])
            for v in found
            if v["impact"] in ("serious", "critical")
        ]
        assert not serious


def test_when_the_service_is_gone_the_page_says_so_and_keeps_the_ratings(chromium, tmp_path):
    running = served(tmp_path)
    address, process = next(running)
    page = chromium.new_page()
    page.goto(address)
    rate(page, "Film 12", 5)
    expect(page.locator("#rated li")).to_have_count(1)
    process.send_signal(signal.SIGTERM)
    process.wait(20)
    page.get_by_role("button", name="Film 12", exact=True).click()
    page.get_by_role("dialog").locator(".stars label:nth-of-type(2)").click()
    page.keyboard.press("Escape")
    expect(page.get_by_role("alert")).to_contain_text("The service does not answer.")
    expect(page.get_by_role("alert").get_by_role("button", name="Try again")).to_be_visible()
    expect(page.locator("#rated li")).to_have_count(1)
    shot(page, "service-gone")
    page.close()
    running.close()
