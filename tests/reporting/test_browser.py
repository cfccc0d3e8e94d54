"""The page in a real browser: nothing is loaded, nothing fails, and what moves does what it says."""

import json
from pathlib import Path
from typing import Any

import pytest

from stages import paths
from tests.reporting.conftest import _reported

TASKS = ("classification", "detection", "largest")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The page of each task, as a file."""
    found = {}
    for task in TASKS:
        home = tmp_path_factory.mktemp(task)
        _reported(home, task=task)
        found[task] = home / paths.REPORTS / "report.html"
    return found


class Opened:
    """A page in the browser, and what went wrong in it."""

    def __init__(self, browser: Any, path: Path, width: int = 1400) -> None:
        self.trouble, self.requests = list[str](), list[str]()
        self.page = browser.new_page(viewport={"width": width, "height": 900})
        self.page.on("console", lambda message: self.trouble.append(message.text))
        self.page.on("pageerror", lambda error: self.trouble.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.trouble.append(dialog.message), dialog.dismiss()))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(path.as_uri())

    def texts(self, selector: str) -> list[str]:
        found: list[str] = self.page.eval_on_selector_all(selector, "all => all.map((one) => one.textContent.trim())")
        return found

    def count(self, selector: str) -> int:
        return int(self.page.locator(selector).count())


@pytest.mark.parametrize("width", [360, 1400])
@pytest.mark.parametrize("task", TASKS)
def test_nothing_fails_and_nothing_leaves_the_page(
    browser: Any, written: dict[str, Path], task: str, width: int
) -> None:
    opened = Opened(browser, written[task], width)
    broken = "() => [...document.images].filter((image) => !image.complete || !image.naturalWidth).length"
    assert opened.count("img, image") > 5 and opened.page.evaluate(broken) == 0
    assert opened.page.evaluate("() => document.documentElement.scrollWidth") <= width
    assert not opened.trouble
    assert all(url.startswith(("file:", "data:")) for url in opened.requests)
    hidden = opened.page.evaluate("() => [...document.querySelectorAll('main img')].filter((one) => !one.alt).length")
    assert hidden == 0


@pytest.mark.parametrize("task", TASKS)
def test_every_anchor_leads_somewhere(browser: Any, written: dict[str, Path], task: str) -> None:
    opened = Opened(browser, written[task])
    missing = "() => [...document.querySelectorAll('a')].filter((a) => !document.querySelector(a.hash)).length"
    assert opened.count("nav a") > 4 and opened.page.evaluate(missing) == 0


def test_the_table_sorts_and_filters(browser: Any, written: dict[str, Path]) -> None:
    opened = Opened(browser, written["classification"])
    column = "#per-class tbody tr:not([hidden]) td:nth-child(2)"
    before = opened.texts(column)
    for names in (sorted(before, key=share), sorted(before, key=share, reverse=True)):
        opened.page.click("#per-class thead th:nth-child(2) button")
        assert opened.texts(column) == names
    opened.page.fill("input[type=search]", "<script>")
    assert opened.texts("#per-class tbody tr:not([hidden]) th") == ["<script>alert(1)</script>"]
    assert opened.texts("#found") == ["1 of 6"]
    assert not opened.trouble


def share(text: str) -> float:
    return float(text.rstrip("%"))


def test_a_cell_shows_its_images(browser: Any, written: dict[str, Path]) -> None:
    opened = Opened(browser, written["classification"])
    for cell in opened.page.locator("[data-cell]").all():
        cell.click()
        (status,) = opened.texts("#cell .note")
        of, figures = int(status.rpartition(" of ")[0].rpartition(" ")[2]), opened.count("#cell figure")
        assert of == figures > 0
        actual, predicted = cell.get_attribute("data-cell").split(",")
        verdicts = {text[0] for text in opened.texts("#cell figcaption span:not(.path)")}
        assert all(text.endswith(".png") for text in opened.texts("#cell figcaption .path"))
        assert verdicts == ({"✓"} if actual == predicted else {"✗"})
    assert not opened.trouble


def test_the_first_cell_is_the_worst_pair(browser: Any, written: dict[str, Path]) -> None:
    opened = Opened(browser, written["classification"])
    pair = opened.texts(".confused tbody tr:first-child th, .confused tbody tr:first-child td.name")
    assert opened.texts("#cell select option:checked") == pair and opened.count("#cell figure") > 0


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("width", [400, 1400])
def test_the_scrollbar_of_the_classes_lies_at_the_table(
    browser: Any, written: dict[str, Path], task: str, width: int
) -> None:
    opened = Opened(browser, written[task], width)
    scroll, table = (opened.page.locator(name).bounding_box() for name in (".scroll:has(> #per-class)", "#per-class"))
    assert scroll and table and scroll["width"] - table["width"] < 20


@pytest.mark.parametrize("task", ["detection", "largest"])
def test_names_on_pictures_do_not_overlap(browser: Any, written: dict[str, Path], task: str) -> None:
    """As the browser draws them, in a font that the page cannot know."""
    overlaps = """() => [...document.querySelectorAll("svg.annotated")].flatMap((picture) => {
      const boxes = [...picture.querySelectorAll("text:not([hidden])")].map((text) => text.getBoundingClientRect());
      return boxes.flatMap((a, i) => boxes.slice(i + 1).filter((b) =>
        a.left < b.right && b.left < a.right && a.top + 2 < b.bottom && b.top + 2 < a.bottom));
    }).length"""
    assert Opened(browser, written[task]).page.evaluate(overlaps) == 0


def test_a_cell_can_be_chosen_without_a_mouse(browser: Any, written: dict[str, Path]) -> None:
    opened = Opened(browser, written["classification"])
    actual, predicted = opened.page.locator("#cell select").all()
    actual.select_option("2")
    predicted.select_option("2")
    assert opened.count("#cell figure") > 0
    predicted.select_option("0")
    assert opened.texts("#cell .note") == ["No image."] and opened.count("#cell figure") == 0


def test_the_tile_is_the_image(browser: Any, written: dict[str, Path]) -> None:
    """Images of a class have a colour of their own: the tile that is shown for one must have it."""
    opened = Opened(browser, written["classification"])
    data = json.loads(opened.page.eval_on_selector("#sheet", "one => one.textContent"))
    for place in (0, len(data["tiles"]) - 1):
        actual, predicted = data["tiles"][place][:2]
        opened.page.click(f'[data-cell="{actual},{predicted}"]')
        picture = opened.page.locator(f"#cell .sprite[title={json.dumps(data['tiles'][place][3])}]")
        picture.scroll_into_view_if_needed()
        red = middle(picture.screenshot())[0]
        assert red == pytest.approx(40 * actual % 256, abs=12)


def middle(png: bytes) -> tuple[int, ...]:
    import io

    from PIL import Image

    with Image.open(io.BytesIO(png)) as image:
        colour: Any = image.convert("RGB").getpixel((image.width // 2, image.height // 2))
    return tuple(colour)


def test_the_map_answers_to_pointer_and_keys(browser: Any, written: dict[str, Path]) -> None:
    opened = Opened(browser, written["classification"])
    points = opened.count("#map-points circle, #map-points path")
    assert points == 24
    box = opened.page.locator("#map-points circle").first
    box.scroll_into_view_if_needed()
    box.hover(force=True)
    assert opened.count("#place figure") == 1
    opened.page.focus("#map-points")
    seen = set()
    for _ in range(points):
        opened.page.keyboard.press("ArrowRight")
        seen.add(opened.page.locator("#place .sprite").get_attribute("title"))
    assert len(seen) == points
    opened.page.select_option("#place select", "1")
    assert opened.count("#map-points .dim") == points - 4
    opened.page.focus("#map-points")
    opened.page.keyboard.press("ArrowLeft")
    assert opened.texts("#place figcaption b") == [json.loads(data(opened))["classes"][1]]
    assert not opened.trouble


def data(opened: Opened) -> str:
    return str(opened.page.eval_on_selector("#sheet", "one => one.textContent"))


def test_the_slider_shows_and_hides_boxes(browser: Any, written: dict[str, Path]) -> None:
    opened = Opened(browser, written["detection"])
    shown = "g[data-upto]:not([hidden])"

    def slide(to: float) -> tuple[int, int]:
        opened.page.locator("#confidence").evaluate(
            "(one, to) => { one.value = to; one.dispatchEvent(new Event('input')); }", to
        )
        stroke = "one => one.map((mark) => mark.querySelector('.line').getAttribute('stroke-dasharray'))"
        broken = sum(bool(dashes) for dashes in opened.page.eval_on_selector_all(shown, stroke))
        return opened.count(shown) - broken, broken

    first = slide(0.5)
    none, all_missed = slide(1.0)
    assert none == 0 and all_missed > first[1] > 0
    low = slide(0.05)
    assert low[0] > first[0] and low[1] < first[1]
    assert slide(0.5) == first
    assert opened.texts("output") == ["0.50"] and not opened.trouble


def test_without_scripts_the_page_is_whole(browser: Any, written: dict[str, Path]) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(written["classification"].as_uri())
    assert page.locator("#per-class tbody tr").count() == 6
    assert not page.locator("#cell").is_visible() and not page.locator(".filter").first.is_visible()
    assert page.locator("#map-points circle").count() > 0
    context.close()
