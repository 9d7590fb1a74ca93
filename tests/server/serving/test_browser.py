"""The page in a real browser, as people use it: with a mouse, with the keyboard alone, on a phone, in the dark."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import pytest

from fl.tasks import find_task
from server.serving.form import typical
from tests.server.serving.pages import MODEL, NASTY, champion_of, digit, filled, served

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from playwright.sync_api import Browser, Page

    from server.registry import ModelVersion
    from server.serving.champion import Champion

pytestmark = pytest.mark.browser

FOCUSED = "document.activeElement.id || document.activeElement.textContent.trim() || document.activeElement.tagName"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # As root, in a container, Chromium has no sandbox; all that it opens is served by the test.
        started = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory, empty_tables: Path) -> Iterator[ModelVersion]:
    """Be in a folder with a registry; gives its champion."""
    with filled(tmp_path_factory.mktemp("page"), empty_tables) as version:
        yield version


@pytest.fixture(scope="module")
def champion(registry: ModelVersion) -> Champion:
    return champion_of("digits", registry)


@pytest.fixture(scope="module")
def digits(champion: Champion) -> Iterator[str]:
    with served(champion) as address:
        yield address


@pytest.fixture(scope="module")
def patients(registry: ModelVersion) -> Iterator[str]:
    typical(
        find_task("breast-cancer")
    )  # Its library loads slowly on a busy machine, and the page does not wait long.
    with served(champion_of("breast-cancer", registry)) as address:
        yield address


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page that fails the test if the browser complains or asks another host."""
    context = browser.new_context(viewport={"width": 1200, "height": 900})
    opened = context.new_page()
    opened.set_default_timeout(20_000)
    complaints: list[str] = []
    asked: list[str] = []
    opened.on("console", lambda message: complaints.append(f"{message.type}: {message.text}"))
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.on("request", lambda request: asked.append(request.url))
    yield opened
    context.close()
    # That a request was answered with an error is what some tests are about.
    assert [line for line in complaints if "Failed to load resource" not in line] == []
    assert [url for url in asked if not url.startswith("http://127.0.0.1:")] == []


def sent(page: Page) -> list[list[float]]:
    """Click Predict, wait for the answer; return the image that was sent."""
    with page.expect_request("**/predict") as asking:
        page.get_by_role("button", name="Predict").click()
    page.get_by_role("table", name="How likely the model finds each answer").wait_for()
    ((image,),) = json.loads(asking.value.post_data or "")["inputs"]
    assert [len(row) for row in image] == [8] * 8
    return image  # type: ignore[no-any-return]


def rows(page: Page) -> list[str]:
    return page.locator("#chances tbody tr").all_inner_texts()


def test_a_digit_is_drawn_with_the_mouse(page: Page, digits: str) -> None:
    page.goto(digits)
    box = page.get_by_role("grid").bounding_box()
    assert box is not None
    cell = box["width"] / 8
    page.mouse.move(box["x"] + 3.5 * cell, box["y"] + 0.5 * cell)
    page.mouse.down()
    page.mouse.move(box["x"] + 3.5 * cell, box["y"] + 7.5 * cell, steps=6)
    page.mouse.up()
    page.mouse.move(box["x"] + 6.5 * cell, box["y"] + 4 * cell)  # The pen is up.
    image = sent(page)
    assert all(row[3] == 1 and 0 < row[2] < 1 and row[5:] == [0, 0, 0] and row[0] == 0 for row in image)
    assert len(rows(page)) == 10
    assert "says version 4" in page.get_by_role("status").inner_text()
    page.get_by_role("button", name="Clear").click()
    assert page.get_by_role("status").inner_text() == ""
    assert rows(page) == []
    assert {value for row in sent(page) for value in row} == {0}


def test_a_digit_is_drawn_with_the_keyboard_alone(page: Page, digits: str) -> None:
    page.goto(digits)
    while page.evaluate("document.activeElement.getAttribute('role')") != "gridcell":
        page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.ariaLabel") == "row 1, column 1, empty"
    for key in ("ArrowLeft", "ArrowUp", "ArrowRight", "ArrowRight", "Space", "Shift+ArrowDown", "Shift+ArrowDown"):
        page.keyboard.press(key)
    assert page.evaluate("document.activeElement.ariaLabel") == "row 3, column 3, filled"
    page.keyboard.press("Space")
    page.keyboard.press("End")
    assert page.evaluate("document.activeElement.ariaLabel") == "row 3, column 8, empty"
    assert page.locator("[role=gridcell][tabindex='0']").count() == 1
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Predict"
    with page.expect_request("**/predict") as asking:
        page.keyboard.press("Enter")
    page.get_by_role("table", name="How likely").wait_for()
    ((image,),) = json.loads(asking.value.post_data or "")["inputs"]
    assert [(y, x) for y in range(8) for x in range(8) if image[y][x]] == [(0, 2), (1, 2)]


def test_a_finger_draws_and_does_not_scroll(browser: Browser, digits: str) -> None:
    context = browser.new_context(viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    phone = context.new_page()
    phone.goto(digits)
    assert phone.locator("#board").evaluate("board => getComputedStyle(board).touchAction") == "none"
    phone.get_by_role("gridcell").nth(27).tap()
    assert phone.get_by_role("gridcell").nth(27).get_attribute("aria-label") == "row 4, column 4, filled"
    context.close()


def test_a_patients_values_are_entered(page: Page, patients: str) -> None:
    page.goto(patients)
    page.get_by_role("button", name="Example values").click()
    assert float(page.get_by_label("mean radius").input_value()) > 10
    page.get_by_label("mean texture").fill("")
    with page.expect_request("**/predict") as asking:
        page.get_by_role("button", name="Predict").click()
    page.get_by_role("table", name="How likely").wait_for()
    (row,) = json.loads(asking.value.post_data or "")["inputs"]
    assert len(row) == 29
    assert "mean texture" not in row
    assert {line.split()[0] for line in rows(page)} == {"benign", "malignant"}
    page.get_by_label("mean area").fill("-5")  # The browser itself tells what does not fit the schema.
    assert page.get_by_label("mean area").evaluate("input => !input.checkValidity()")


def test_what_the_server_refuses_is_told(page: Page, champion: Champion, digits: str) -> None:
    page.goto(digits)
    there, champion.served, champion.problem = champion.served, None, "the champion went home"
    try:
        page.get_by_role("button", name="Predict").click()
        page.get_by_role("alert").filter(has_text="the champion went home").wait_for()
    finally:
        champion.served, champion.problem = there, ""
    for status, body, words in (
        (422, '{"detail": [{"msg": "no list"}]}', "no list"),
        (429, '{"error": "too many at once"}', "too many at once"),
        (502, "<h1>proxy</h1>", "The server answered 502."),
        (400, json.dumps({"detail": NASTY}), NASTY),
    ):
        page.route("**/predict", lambda route, _, s=status, b=body: route.fulfill(status=s, body=b))
        page.get_by_role("button", name="Predict").click()
        page.get_by_role("alert").filter(has_text=words).wait_for()
        page.unroute("**/predict")
    page.route("**/predict", lambda route: route.abort())
    page.get_by_role("button", name="Predict").click()
    page.get_by_role("alert").filter(has_text="The server does not answer.").wait_for()
    page.unroute("**/predict")
    sent(page)
    assert page.get_by_role("alert").inner_text() == ""


def test_a_key_is_asked_for_when_the_server_wants_one(page: Page, digits: str) -> None:
    headers: list[str] = []

    def guarded(route, request):  # type: ignore[no-untyped-def]
        headers.append(request.headers.get("authorization", ""))
        if headers[-1] == "Bearer secret":
            route.continue_()
        else:
            route.fulfill(status=401, body='{"detail": "a key is needed"}')

    page.route("**/predict", guarded)
    page.goto(digits)
    assert page.get_by_label("API key").is_hidden()
    page.get_by_role("button", name="Predict").click()
    page.get_by_role("alert").filter(has_text="a key is needed").wait_for()
    assert page.evaluate("document.activeElement.id") == "key"
    page.keyboard.type("secret")
    page.keyboard.press("Enter")
    page.get_by_role("table", name="How likely").wait_for()
    assert headers == ["", "Bearer secret"]
    assert page.evaluate("[localStorage.length, sessionStorage.length, document.cookie]") == [0, 0, ""]


def test_the_tab_key_reaches_everything_in_order(page: Page, digits: str) -> None:
    page.goto(digits)
    reached = []
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement === document.body"):
            break
        reached.append(page.evaluate(FOCUSED))
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none", reached
    names = [
        "Skip to the content", "Commits and digests in full", "Predict", "clear", "The same as a list",
        "All versions as a table", "What the words mean", "/model", "/health/ready", "/docs",
    ]  # fmt: skip
    assert [name for name in reached if name in names] == names
    page.reload()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"


def test_everything_has_a_name(page: Page, digits: str, patients: str) -> None:
    page.goto(digits)
    for role, name in (
        ("region", "Current model"), ("region", "Try it"), ("region", "Where it comes from"),
        ("region", "Accuracy over versions"), ("region", "Hospitals of the last job"),
        ("img", f"Lineage of {MODEL}"), ("img", "Accuracy of each version"),
        ("grid", "Drawing area, 8 rows of 8 cells"), ("rowheader", NASTY),
    ):  # fmt: skip
        assert page.get_by_role(role, name=name, exact=True).count() == 1, (role, name)  # type: ignore[arg-type]
    for role in ("banner", "main", "contentinfo"):
        assert page.get_by_role(role).count() == 1  # type: ignore[arg-type]
    assert page.get_by_role("heading", level=1).inner_text() == MODEL
    page.goto(patients)
    assert page.get_by_role("spinbutton").count() == 30
    assert page.get_by_role("spinbutton", name="worst fractal dimension").count() == 1


@pytest.mark.parametrize("task", ["digits", "patients"])
def test_a_narrow_screen_needs_no_scrolling_sideways(
    browser: Browser, task: str, request: pytest.FixtureRequest
) -> None:
    context = browser.new_context(viewport={"width": 360, "height": 740})
    page = context.new_page()
    page.goto(request.getfixturevalue(task))
    page.evaluate("document.querySelectorAll('details').forEach(part => part.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    context.close()


CONTRAST = """() => {
  const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
  const light = (colour) => {
    canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    const part = (v) => v <= 10.31 ? v / 255 / 12.92 : ((v / 255 + .055) / 1.055) ** 2.4;
    const [r, g, b] = canvas.getImageData(0, 0, 1, 1).data;
    return .2126 * part(r) + .7152 * part(g) + .0722 * part(b);
  };
  const clear = (colour) => colour === "rgba(0, 0, 0, 0)" || colour === "transparent";
  const found = [];
  for (const e of document.querySelectorAll("body *")) {
    if (![...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim()) || !e.checkVisibility()) continue;
    let ground = e;
    while (ground && clear(getComputedStyle(ground).backgroundColor)) ground = ground.parentElement;
    const style = getComputedStyle(e);
    const one = light(e.namespaceURI.endsWith("svg") ? style.fill : style.color);
    const other = light(getComputedStyle(ground ?? document.body).backgroundColor);
    const ratio = (Math.max(one, other) + .05) / (Math.min(one, other) + .05);
    if (ratio < 4.5) found.push([e.textContent.trim().slice(0, 40), ratio]);
  }
  return found;
}"""
"""WCAG 2's contrast of every text with what is behind it; those below 4.5 to 1."""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_is_readable_in_light_and_in_dark(
    browser: Browser, scheme: str, digits: str, champion: Champion, tmp_path: Path
) -> None:
    champion.problem = "something to show"
    context = browser.new_context(color_scheme=scheme)  # type: ignore[arg-type]
    page = context.new_page()
    page.goto(digits)
    champion.problem = ""
    page.evaluate("document.querySelectorAll('details').forEach(part => part.open = true)")
    sent(page)
    assert page.evaluate(CONTRAST) == []
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (int(background.strip("rgb()").split(",")[0]) < 128) == (scheme == "dark")
    assert len(page.screenshot(path=tmp_path / "page.png")) > 10_000
    context.close()


def test_without_scripts_the_page_is_whole_but_for_the_form(browser: Browser, digits: str) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(digits)
    assert page.get_by_role("heading", name="Hospitals of the last job").is_visible()
    assert "curl ADDRESS/predict" in page.content()  # Playwright's switch does not make Chromium show <noscript>.
    assert page.locator("form").is_hidden()
    context.close()


def test_the_forms_image_is_what_the_task_learns_from(page: Page, digits: str) -> None:
    """A real image, put in cell by cell, is sent as the data set has it where its pixels are all or nothing."""
    image = [[float(value > 0.5) for value in row] for row in digit(3)]
    page.goto(digits)
    page.get_by_role("gridcell").nth(0).focus()
    for row in image:
        page.keyboard.press("Home")
        for value in row:
            if value:
                page.keyboard.press("Space")
            page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowDown")
    assert sent(page) == image
