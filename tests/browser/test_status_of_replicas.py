"""/status of a server whose model is elsewhere: a lane for each replica."""

import urllib.request
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect
from tests.browser.conftest import Server, free_port
from tests.browser.talks import Talk

pytestmark = pytest.mark.browser


@pytest.fixture
def front(scripted: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """In front of one that is there, and of one that is not."""
    nobody = f"http://127.0.0.1:{free_port()}"
    server = Server(tmp_path_factory.mktemp("front") / "log", "--upstream", f"{scripted.url},{nobody}")
    server.start()
    yield server
    server.stop()


def test_each_replica_shows_how_it_is_and_what_it_has_done(
    page: Page, scripted: Server, front: Server
) -> None:
    page.goto(f"{front.url}/status")
    rows = page.locator("#replicas tr")
    expect(rows).to_have_count(2)
    expect(page.locator("#replicas-count")).to_have_text("1 of 2 in service")
    there, nobody = rows.nth(0), rows.nth(1)
    name = f"127.0.0.1:{scripted.port}"
    expect(there).to_contain_text(name)
    expect(nobody.locator(".badge")).to_have_text(r"out")
    Talk(front, "hello", 5).join()
    expect(there.locator("td").nth(3)).to_have_text("1")
    expect(page.locator("#detail-line")).to_contain_text(name)
    drain = urllib.request.Request(f"{front.url}/v1/replicas/{name}/drain", method="POST")
    urllib.request.urlopen(drain).close()
    expect(there.locator(".badge")).to_have_text("draining")
    expect(page.locator("#replicas-count")).to_have_text("0 of 2 in service")


def test_a_server_with_a_model_of_its_own_has_no_such_block(page: Page, scripted: Server) -> None:
    page.goto(f"{scripted.url}/status")
    expect(page.locator("#connection")).to_have_text("live")
    expect(page.locator("#replicas-block")).to_be_hidden()
