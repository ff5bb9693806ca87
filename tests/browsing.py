"""Pages in headless Chromium, for the tests of all pages."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
needs_browser = pytest.mark.skipif(
    CHROMIUM is None or DRIVER is None,
    reason="no chromium and chromedriver on the PATH (on Debian: apt-get install chromium chromium-driver)",
)


class Browser:
    """A page in headless Chromium, which fails on any word in its console and any request that leaves it."""

    def __init__(self, driver: Any, folder: Path) -> None:
        self.driver, self.folder = driver, folder

    def open(self, text: str, fragment: str = "") -> int:
        """Show a page; milliseconds from the navigation until it was painted."""
        path = self.folder / "page.html"
        path.write_text(text, encoding="utf-8")
        self.driver.get("about:blank")
        for kind in ("browser", "performance"):
            self.driver.get_log(kind)
        self.driver.get(path.as_uri() + fragment)
        self.until("document.documentElement.dataset.ready || !document.scripts.length")
        return int(self.js("return document.documentElement.dataset.ready || 0"))

    def look(self, *, width: int = 1440, height: int = 900, scheme: str = "light") -> None:
        """As on a screen of that size, in that scheme of colours."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", media)

    def js(self, script: str, *given: Any) -> Any:
        return self.driver.execute_script(script, *given)

    def until(self, condition: str) -> None:
        end = time.monotonic() + 20
        while not self.js(f"return !!({condition})"):
            assert time.monotonic() < end, f"never came true: {condition}"
            time.sleep(0.02)

    def press(self, *keys: str) -> None:
        self.driver.switch_to.active_element.send_keys(*keys)

    def focused(self) -> str:
        found: str = self.js(
            "const e = document.activeElement; return e.getAttribute('aria-label') || e.id || e.textContent"
        )
        return found

    def click(self, selector: str) -> None:
        from selenium.webdriver.common.by import By

        self.driver.find_element(By.CSS_SELECTOR, selector).click()

    def titles(self) -> list[str]:
        """Of the modules that can be seen."""
        found: list[str] = self.js(
            "return [...document.querySelectorAll('#tree .title')].filter((e) => e.checkVisibility())"
            ".map((e) => e.textContent)"
        )
        return found

    def check_quiet(self) -> None:
        """Nothing was said in the console, and nothing was asked for but the page itself."""
        assert self.driver.get_log("browser") == []
        messages = [json.loads(each["message"])["message"] for each in self.driver.get_log("performance")]
        asked = [each["params"]["request"]["url"] for each in messages if each["method"] == "Network.requestWillBeSent"]
        assert [url for url in asked if not url.startswith(("data:", self.folder.as_uri()))] == []
        assert (
            self.js("return performance.getEntriesByType('resource').filter((e) => !e.name.startsWith('data:')).length")
            == 0
        )


@pytest.fixture(scope="session")
def driver() -> Iterator[Any]:
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--window-size=1440,900",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    started = webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=DRIVER))
    yield started
    started.quit()


@pytest.fixture
def browser(driver: Any, tmp_path: Path) -> Iterator[Browser]:
    made = Browser(driver, tmp_path)
    made.look()
    yield made
    made.check_quiet()
