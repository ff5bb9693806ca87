"""The page of `atograph inspect --format html`, as text and in a browser."""

from __future__ import annotations

import json
import time
from html.parser import HTMLParser
from typing import Any

import pytest
import torch
from browsing import Browser, needs_browser
from networks import build
from sample_report import REPORT
from torch import nn

import atograph
from atograph.inspection import Overview, overview
from atograph.inspection.overview import GroupView
from atograph.inspection.page import page
from atograph.report.run import Report

HOSTILE = "<img src=x onerror=alert(1)>"
BREAKS_OUT = "</script><script>alert(2)</script>\u2028'\"&amp;"


def made_by(shown: Overview, layer: str) -> GroupView:
    """The group whose units a layer makes."""
    return next(
        group
        for group in shown.groups
        for member in group.members
        if member.role == "makes" and member.parameter == f"{layer}.weight"
    )


class Hostile(nn.Module):
    """Modules may be called anything but what has a dot in it."""

    def __init__(self) -> None:
        super().__init__()
        self.add_module(HOSTILE, nn.Conv2d(3, 8, 3))
        self.add_module(BREAKS_OUT, nn.Conv2d(8, 4, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.children():
            x = layer(x)
        return x


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(16), nn.Linear(16, 32), nn.Linear(32, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(torch.relu(self.up(self.norm(x))))


class Repeated(nn.Module):
    """Twelve blocks of one type, and a module that holds a parameter beside them."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.ones(16))
        self.first, self.last = nn.Linear(5, 16), nn.Linear(16, 3)
        self.blocks = nn.Sequential(*(Block() for _ in range(12)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.blocks(self.first(x) + self.shift))


def seen(model: nn.Module, *inputs: torch.Tensor, name: str = "") -> Overview:
    return overview(atograph.trace(model.eval(), *inputs), name=name)


def planned(model: nn.Module, *inputs: torch.Tensor, name: str = "") -> Overview:
    """With a plan that keeps half of every group that can be pruned."""
    graph = atograph.trace(model.eval(), *inputs)
    plan = graph.plan(kept={group.name: range(group.size // 2) for group in graph.prunable})
    return overview(graph, plan, name=name)


def with_curves() -> Report:
    """A report whose curves hold what was never foreseen, too."""
    curves: list[dict[str, object]] = [
        {
            "epoch": epoch, "loss": 2.3 / epoch, "metric": 1 - 0.9 / epoch, "flops": 1 - 0.07 * epoch,
            "lam": 0.1 * epoch, "zeroed": 0.0, "lr": 0.1, "seconds": 1.5, "controller_loss": None,
            "vanishing": float("nan"), "kept": {HOSTILE: 30 - epoch, "g2": 8}, "a surprise": epoch**2,
        }
        for epoch in range(1, 11)
    ]  # fmt: skip
    return REPORT.model_copy(update={"curves": curves})


class Parts(HTMLParser):
    """What a page loads, and what stands in its scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.title = ""
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "action", "data")]
        if tag == "script":
            self.scripts.append((dict(attrs), ""))
        self._inside = tag

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            attributes, text = self.scripts[-1]
            self.scripts[-1] = attributes, text + data
        elif self._inside == "title":
            self.title += data

    @property
    def data(self) -> Any:
        (found,) = [text for attributes, text in self.scripts if attributes.get("type") == "application/json"]
        return json.loads(found)


def test_loads_nothing_from_outside() -> None:
    for text in (page(seen(*build("residual"))), page(seen(*build("residual")), with_curves())):
        assert Parts(text).links == ["data:,"]
        policy = text.partition('http-equiv="Content-Security-Policy" content="')[2].partition('"')[0]
        assert policy.startswith("default-src &#39;none&#39;")
        assert "http" not in policy and "script-src &#39;sha256-" in policy


def test_names_are_data_and_nothing_else() -> None:
    shown = seen(Hostile(), torch.randn(2, 3, 8, 8), name=BREAKS_OUT)
    text = page(shown)
    parts = Parts(text)
    assert parts.title == f"{BREAKS_OUT} · atograph"
    assert "img" not in parts.tags and parts.tags.count("script") == 2
    assert HOSTILE not in text and "</script><script>" not in text
    assert "\u2028" not in parts.scripts[0][1]
    assert {each["name"] for each in parts.data["modules"]} == {"", HOSTILE, BREAKS_OUT}


def test_holds_all_there_is() -> None:
    shown = seen(*build("dense"))
    data = Parts(page(shown)).data
    assert [each["name"] for each in data["groups"]] == [each.name for each in shown.groups]
    assert data["parameters"] == json.loads(shown.model_dump_json())["parameters"]
    first = next(each for each in data["groups"] if "first.weight" in str(each["members"]))
    assert first["members"][0] == {
        "parameter": "first.weight", "dim": 0, "role": "makes", "zero": ["[u]"],
        "ops": [f"conv2d in first ({shown.modules[1].source})"],
    }  # fmt: skip


def test_a_page_is_small() -> None:
    shown = planned(*build("residual"))
    plain, full = page(shown), page(shown, with_curves())
    assert len(plain) < 100_000 and len(full) < 200_000


# --- in a browser ---


@needs_browser
def test_hostile_names_stay_text(browser: Browser) -> None:
    browser.open(page(planned(Hostile(), torch.randn(2, 3, 8, 8), name=HOSTILE), with_curves()))
    assert HOSTILE in browser.js("return document.querySelector('#layers').textContent")
    assert HOSTILE in browser.js("return document.querySelector('.plots').textContent")
    browser.click("#tab-network")
    browser.click("#groups li")
    assert HOSTILE in browser.titles() and BREAKS_OUT in browser.titles()
    assert browser.js("return document.querySelectorAll('img').length") == 0
    assert browser.js("return document.getElementById('name').textContent") == HOSTILE


@needs_browser
def test_folds_and_unfolds_by_mouse_and_keys(browser: Browser) -> None:
    from selenium.webdriver.common.keys import Keys

    browser.open(page(seen(Repeated(), torch.randn(2, 5))))
    assert "blocks.0–11" in browser.titles() and "up" not in browser.titles()
    assert "shift" in browser.titles(), "a parameter beside modules has a line of its own"
    browser.js("document.querySelector('#tree [role=treeitem]').focus()")
    browser.press(Keys.END)
    while "blocks.0–11" not in browser.focused():
        browser.press(Keys.ARROW_UP)
    browser.press(Keys.ARROW_RIGHT)
    assert browser.titles().count("11") == 1
    browser.press(Keys.ARROW_DOWN)
    assert browser.focused().startswith("0, Block")
    browser.press(Keys.ENTER)
    assert browser.titles().count("up") == 1
    browser.press(" ")
    assert browser.titles().count("up") == 0
    browser.press(Keys.ARROW_LEFT)
    assert browser.focused().startswith("blocks.0–11")
    browser.press(Keys.ARROW_LEFT)
    assert browser.titles().count("11") == 0
    browser.press(Keys.HOME)
    assert browser.focused().startswith("Repeated")
    browser.click("#tree .is-run > .row .title")
    assert browser.titles().count("11") == 1


@needs_browser
def test_a_cell_selects_its_group_everywhere(browser: Browser) -> None:
    from selenium.webdriver.common.keys import Keys

    shown = seen(Repeated(), torch.randn(2, 5))
    wide = made_by(shown, "first")
    browser.open(page(shown))
    browser.js("document.querySelector('#tree [role=treeitem]').focus()")
    while not browser.focused().startswith("first,"):
        browser.press(Keys.ARROW_DOWN)
    browser.press(Keys.ARROW_RIGHT)
    assert browser.focused() == f"first.weight dimension 0, size 16, group {wide.name}"
    browser.press(Keys.ENTER)
    assert browser.js("return location.hash") == f"#{wide.name}"
    assert browser.js("return document.querySelector('#panel h2').textContent") == wide.name
    assert browser.js("return document.querySelector('#groups [aria-selected=true]').dataset.group") == wide.name
    assert browser.js("return document.querySelectorAll('#tree .cell.on').length") >= 3
    cells = sum("blocks" in each.parameter for each in wide.members)
    assert (
        browser.js("return document.querySelector('#tree .is-run .holds').textContent")
        == f"{cells} cells of {wide.name}"
    )
    browser.press(Keys.ESCAPE)
    assert browser.js("return location.hash") == ""
    assert browser.js("return document.querySelectorAll('.on').length") == 0


@needs_browser
def test_a_link_to_a_group_and_to_its_members(browser: Browser) -> None:
    shown = seen(Repeated(), torch.randn(2, 5))
    inner = made_by(shown, "blocks.7.up")
    browser.open(page(shown), f"#{inner.name}")
    assert browser.js("return document.querySelector('#panel h2').textContent") == inner.name
    browser.click("#panel .members button")
    assert browser.focused().startswith("blocks.7.up.weight dimension 0")
    browser.js("location.hash = '#%E0%A4%A'")  # no name at all
    browser.until("!document.querySelector('#tree .on')")


@needs_browser
def test_search(browser: Browser) -> None:
    from selenium.webdriver.common.keys import Keys

    browser.open(page(seen(Repeated(), torch.randn(2, 5))))
    browser.js("document.body.focus()")
    browser.press("/")
    assert browser.js("return document.activeElement.id") == "search"
    browser.press("7.DOWN")
    assert browser.titles() == ["Repeated", "blocks", "blocks.0–11", "7", "down"]
    assert browser.js("return document.querySelectorAll('#groups li').length") == 2
    browser.press("x")
    assert browser.titles() == [] and browser.js("return document.getElementById('nothing').checkVisibility()")
    browser.press(Keys.ESCAPE)
    assert "first" in browser.titles() and browser.js("return document.getElementById('search').value") == ""


@needs_browser
def test_what_stops_me(browser: Browser) -> None:
    browser.open(page(seen(Repeated(), torch.randn(2, 5))))
    browser.click("#stops")
    assert browser.titles() == ["Repeated", "last"], "the weight of first shrinks by what it makes"
    heads = browser.js("return [...document.querySelectorAll('#reasons h3')].map((e) => e.textContent)")
    assert sorted(heads) == ["model input", "model output"]
    assert browser.js("return document.querySelectorAll('#groups li').length") == 2
    browser.click("#reasons .cell")
    assert "Stays whole" in browser.js("return document.getElementById('panel').textContent")
    browser.js("document.activeElement.blur()")
    browser.press("s")
    assert "blocks.0–11" in browser.titles()


@needs_browser
def test_the_list_is_walked_and_sorted(browser: Browser) -> None:
    from selenium.webdriver.common.keys import Keys

    shown = seen(Repeated(), torch.randn(2, 5))
    browser.open(page(shown))
    browser.js(
        "const s = document.getElementById('sort'); s.value = 'units'; s.dispatchEvent(new Event('change'));"
        "document.querySelector('#groups li').focus()"
    )
    browser.press(Keys.END)
    least = min(shown.groups, key=lambda group: group.units)
    assert browser.js("return location.hash") == f"#{least.name}"
    browser.press(Keys.HOME)
    assert browser.js("return document.querySelector('#panel .panel-head span:last-of-type').textContent") == "32 units"


@needs_browser
def test_dark_and_light(browser: Browser) -> None:
    browser.open(page(seen(*build("residual"))))
    colour = "return getComputedStyle(document.body).backgroundColor"
    light = browser.js(colour)
    browser.click("#theme")
    assert browser.js("return document.documentElement.dataset.theme") == "dark" and browser.js(colour) != light
    browser.js("document.activeElement.blur()")
    browser.press("t")
    assert browser.js(colour) == light


def opened(browser: Browser, shown: Overview) -> tuple[int, float]:
    """Milliseconds until the page was painted, and seconds to go through some groups: the one with the most cells is
    among them."""
    took, start = browser.open(page(shown)), time.monotonic()
    for group in (shown.groups[0], shown.groups[-1]):
        browser.js("location.hash = arguments[0]", f"#{group.name}")
        browser.until(f"document.querySelector('#panel h2').textContent === '{group.name}'")
    return took, time.monotonic() - start


@pytest.mark.long
@needs_browser
@pytest.mark.parametrize("name", ["resnet50", "vit of 24 layers"])
def test_large_networks_are_there_at_once(browser: Browser, name: str) -> None:
    torchvision_models = pytest.importorskip("benchmarks.models.torchvision_models")  # timm imports torchvision, too
    if name == "resnet50":
        model = torchvision_models.build(name)
    else:
        timm = pytest.importorskip("timm")
        model = timm.create_model("vit_tiny_patch16_224", depth=24, pretrained=False)
    shown = seen(model, torch.randn(2, 3, 224, 224))
    assert len(shown.groups) > 30
    plain, inputs = build("plain")
    times = [(opened(browser, seen(plain, inputs)), opened(browser, shown)) for _ in range(3)]
    for of_page in (0, 1):  # relative to a small network's, because the machine may have much else to do
        assert min(large[of_page] for _, large in times) < 20 * min(small[of_page] for small, _ in times), times
