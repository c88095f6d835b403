"""The pages of a server with several models."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect
from tests.browser.axe import needs_axe, violations
from tests.browser.conftest import Server
from tests.browser.talks import Talk

pytestmark = pytest.mark.browser


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """What the model waits for that is held up."""
    return tmp_path / "release"


@pytest.fixture
def several(tmp_path: Path, release: Path) -> Iterator[Server]:
    server = Server(tmp_path / "log", str(release), program="several_server.py")
    server.start()
    yield server
    release.touch()
    server.stop()


def test_each_model_shows_how_it_is_and_a_request_which_one_serves_it(
    page: Page, several: Server, release: Path
) -> None:
    page.goto(f"{several.url}/status")
    rows = page.locator("#models tr")
    expect(rows).to_have_count(3)
    expect(page.locator("#model")).to_have_text("3 models")
    expect(page.locator("#models-count")).to_have_text("1 of 3 there")
    expect(page.locator("#slots-used")).to_have_text("0 of 2 in use")
    small, held, broken = (rows.nth(number) for number in range(3))
    expect(small.locator(".badge")).to_have_text("loaded")
    expect(held.locator(".badge")).to_have_text("not loaded")
    expect(held).to_contain_text("2 once loaded")
    Talk(several, "hello", 5, model="broken-3b").join()
    expect(broken.locator(".badge")).to_have_text("failed")
    expect(broken).to_contain_text("truncated or damaged")
    talk = Talk(several, "hello", 50, model="held-7b")
    expect(held.locator(".badge")).to_have_text("loading")
    expect(page.locator("#queue")).to_contain_text("loading held-7b")
    expect(held.locator("td").nth(2)).to_have_text("1")
    release.touch()
    talk.join()
    expect(held.locator(".badge")).to_have_text("loaded")
    expect(page.locator("#slots-used")).to_have_text("0 of 4 in use")
    expect(page.locator("#lanes .tag", has_text="held-7b")).to_have_count(1)
    expect(page.locator("#detail-line")).to_contain_text("to held-7b")
    expect(page.locator("#history td.of-model").first).to_have_text("held-7b")
    page.locator("#history-filter").fill("broken")
    expect(page.locator("#history tr")).to_have_count(1)


@needs_axe
def test_axe_finds_nothing_on_the_pages_of_several_models(page: Page, several: Server) -> None:
    Talk(several, "hello", 5, model="broken-3b").join()
    for path, shown in (("status", "#models tr"), ("", "#models")):
        page.goto(f"{several.url}/{path}")
        expect(page.locator(shown).first).to_be_visible()
        assert violations(page) == []


def test_the_chat_page_asks_the_model_that_is_chosen(page: Page, several: Server, release: Path) -> None:
    release.touch()
    page.goto(f"{several.url}/")
    choice = page.locator("#models")
    expect(choice).to_be_visible()
    expect(page.locator("#model")).to_be_hidden()
    choice.select_option("held-7b")
    page.fill("#prompt", "who?")
    page.press("#prompt", "Enter")
    expect(page.locator("#log")).to_contain_text("I am held-7b.")


def test_a_server_of_one_model_shows_nothing_of_that(page: Page, scripted: Server) -> None:
    page.goto(f"{scripted.url}/status")
    expect(page.locator("#connection")).to_have_text("live")
    expect(page.locator("#model")).to_have_text("scripted")
    expect(page.locator("#models-block")).to_be_hidden()
    expect(page.locator("#history-head .of-model")).to_be_hidden()
    page.goto(f"{scripted.url}/")
    expect(page.locator("#model")).to_have_text("scripted")
    expect(page.locator("#models")).to_be_hidden()
