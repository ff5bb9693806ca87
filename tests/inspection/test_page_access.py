"""All pages for everyone: on a phone, by keyboard, with a screen reader, in light and dark."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import page_gallery
import pytest
from browsing import Browser, needs_browser


@cache
def text_of(name: str) -> str:
    return page_gallery.PAGES[name]()


def axe() -> Path | None:
    """axe-core, where a package brings it: none is downloaded."""
    package = find_spec("axe_playwright_python")
    places = [] if package is None else package.submodule_search_locations or []
    return next((path for place in places if (path := Path(place) / "axe.min.js").is_file()), None)


needs_axe = pytest.mark.skipif(axe() is None, reason="no axe-core (pip install --no-deps axe-playwright-python)")

ALL = [*page_gallery.PAGES]

KINDS = ("run", "network", "ladder", "sweep", "sensitivity")

WHAT_TO_SHOW = {"network": "document.getElementById('stops').click(); document.querySelector('#groups li').click()"}
"""What is done with a page first."""


@pytest.mark.parametrize("name", ALL)
def test_a_page_is_small_and_asks_for_nothing(name: str) -> None:
    text = text_of(name)
    assert len(text.encode()) < (1_000_000 if name == "many layers" else 200_000)
    assert "http://" not in text.replace("http://www.w3.org/", "") and "https://" not in text
    policy = text.partition('http-equiv="Content-Security-Policy" content="')[2].partition('"')[0]
    assert policy.startswith("default-src &#39;none&#39;") and "unsafe" not in policy


@needs_browser
@pytest.mark.parametrize("name", ALL)
def test_on_a_phone_nothing_is_wider_than_the_screen(browser: Browser, name: str) -> None:
    browser.look(width=375, height=800)
    browser.open(text_of(name))
    tabs = browser.js("return document.querySelectorAll('[role=tab]').length")
    for tab in ("run", "network") if tabs else ("",):
        if tab:
            browser.click(f"#tab-{tab}")
        assert browser.js("return document.documentElement.scrollWidth") <= 375


@needs_axe
@needs_browser
@pytest.mark.parametrize(
    "name",
    [name if name in KINDS else pytest.param(name, marks=pytest.mark.long) for name in ALL if name != "many layers"],
)
def test_axe_finds_nothing_serious(browser: Browser, name: str) -> None:
    path = axe()
    assert path is not None
    browser.driver.set_script_timeout(300)
    for scheme in ("light", "dark"):
        browser.look(width=1280, scheme=scheme)
        browser.open(text_of(name))
        browser.js(WHAT_TO_SHOW.get(name, ""))
        browser.driver.execute_cdp_cmd("Runtime.evaluate", {"expression": path.read_text(encoding="utf-8")})
        found: list[Any] = browser.driver.execute_async_script(
            "const done = arguments[0]; axe.run().then((all) => done(all.violations.map((each) => "
            "[each.impact, each.id, each.nodes.map((node) => node.html + node.failureSummary)])))"
        )
        assert [each for each in found if each[0] in ("serious", "critical", "moderate")] == [], scheme


CONTROLS = (
    "[...document.querySelectorAll('a, button, input, select, summary, [tabindex=\"0\"]')]"
    ".filter((each) => each.checkVisibility() && each.tabIndex >= 0)"
)


@needs_browser
@pytest.mark.parametrize("name", KINDS)
def test_every_control_is_reached_by_tab_and_shows_it(browser: Browser, name: str) -> None:
    from selenium.webdriver.common.keys import Keys

    browser.open(text_of(name))
    controls = browser.js(f"const all = {CONTROLS}; all.forEach((e, i) => {{ e.dataset.at = i; }}); return all.length")
    reached = set()
    for _ in range(controls + 2):
        browser.press(Keys.TAB)
        at, style, width = browser.js(
            "const e = document.activeElement; const item = e.querySelector(':scope > .row') ?? e;"
            "const style = getComputedStyle(item); return [e.dataset.at, style.outlineStyle, style.outlineWidth]"
        )
        if at is not None:
            reached.add(int(at))
            assert style != "none" and width != "0px", at
    assert reached == {*range(controls)}


@needs_browser
def test_code_is_copied_layers_are_filtered_and_a_chart_says_its_numbers(browser: Browser) -> None:
    browser.open(text_of("run"))
    browser.click("button.copy")
    browser.until("/Copied|Selected/.test(document.querySelector('button.copy').textContent)")
    browser.js(
        "const input = document.querySelector('.filter'); input.value = 'LINEAR';"
        "input.dispatchEvent(new Event('input'))"
    )
    shown = "[...document.querySelectorAll('#layers tbody tr')].filter((row) => row.checkVisibility())"
    assert browser.js(f"return {shown}.map((row) => row.querySelector('.name').textContent)") == ["head"]
    assert browser.js("return document.querySelector('.filtered').textContent") == "1 of 4 layers"
    browser.js("document.querySelectorAll('.spot')[4].dispatchEvent(new PointerEvent('pointermove', {bubbles: true}))")
    assert browser.js("return document.querySelector('.says:not([hidden])').textContent").startswith("epoch 5: ")


@needs_browser
def test_in_print_all_of_a_run_is_there(browser: Browser) -> None:
    browser.open(text_of("many layers"))
    browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    controls = ".bar input, .copy, .filter, .views, .keys"
    hidden = browser.js(
        f"return [...document.querySelectorAll('{controls}')].filter((e) => e.checkVisibility()).length"
    )
    cut = browser.js(
        "return [...document.querySelectorAll('main, #run, .scroll')].filter((e) => e.scrollHeight > e.clientHeight + 1"
        " && getComputedStyle(e).overflowY !== 'visible').length"
    )
    browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    assert (hidden, cut) == (0, 0)
