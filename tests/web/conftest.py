"""One browser for all tests of a worker, and a page for each."""

import os
import re
import shutil
from collections.abc import AsyncGenerator, Generator
from typing import Final

import pytest
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service

from ._browser import Page

#: What an ordinary run looks at: that the page and its client work. A page takes seconds and does
#: not see the interpreter; all of them are in `just pages`, which CI runs once.
ORDINARY: Final = {
    "test_protocol_client_keeps_its_promises",
    "test_streamed_answer_appears",
    "test_thoughts_and_tools_fold_open",
    "test_option_is_chosen_in_place_in_every_tab",
    "test_lost_connection_goes_on_in_the_middle_of_a_sentence",
    "test_conversation_by_keyboard_alone",
    "test_hostile_name_is_text_everywhere",
}


@pytest.hookimpl(tryfirst=True)  # before those are sorted
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Know those that open a page."""
    for item in items:
        if "browser" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.slow)
            if getattr(item, "originalname", item.name) not in ORDINARY:
                item.add_marker(pytest.mark.campaign)


@pytest.fixture(scope="session")
def browser() -> Generator[Chrome]:
    """Chromium without a screen."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("no chromium or no chromedriver on this machine")
    options = ChromeOptions()
    options.binary_location = chromium
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    for flag in (
        "--headless=new",
        "--window-size=1280,860",
        "--disable-dev-shm-usage",
        "--disable-gpu",
        "--no-first-run",
        "--no-proxy-server",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        # A tab that is not in front runs as one that is.
        "--disable-background-timer-throttling",
        "--disable-backgrounding-occluded-windows",
        "--disable-renderer-backgrounding",
    ):
        options.add_argument(flag)
    if os.geteuid() == 0:
        options.add_argument("--no-sandbox")  # refuses to start as root with it
    browser = Chrome(options, Service(driver))
    browser.set_script_timeout(60)
    yield browser
    browser.quit()


@pytest.fixture
async def page(browser: Chrome, request: pytest.FixtureRequest) -> AsyncGenerator[Page]:
    """A window, of a size and a scheme that a test may change."""
    page = Page(browser, re.sub(r"\W+", "_", request.node.name.removeprefix("test_")))
    yield page
    await page.close()
