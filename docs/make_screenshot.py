"""Take the picture of the page that these documents show: docs/page.png.

Start `flops server serve` where a registry has some versions of the digits, then:

    python docs/make_screenshot.py http://localhost:8000/ docs/page.png
"""

import shutil
import sys

from PIL import Image
from playwright.sync_api import sync_playwright

THREE = ((2, 1.2), (4, 0.8), (5.3, 1.8), (4.3, 3.4), (3.4, 3.7), (4.5, 4), (5.5, 5.4), (4.3, 7), (2, 6.7))
"""A digit, as one would draw it: places of the pen, in cells."""


def main(url: str, picture: str) -> None:
    """Open the page, draw a digit, ask, take the picture."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1200, "height": 900})
        page.goto(url)
        box = page.get_by_role("grid").bounding_box() or sys.exit(f"{url} has nothing to draw on")
        places = [(box["x"] + x * box["width"] / 8, box["y"] + y * box["height"] / 8) for x, y in THREE]
        page.mouse.move(*places[0])
        page.mouse.down()
        for place in places[1:]:
            page.mouse.move(*place, steps=5)
        page.mouse.up()
        page.get_by_role("button", name="Predict").click()
        page.locator("#chances").wait_for()
        page.screenshot(path=picture, full_page=True)
        browser.close()
    with Image.open(picture) as image:  # With a palette it is a third as large, and looks the same.
        smaller = image.convert("RGB").quantize(256, method=Image.Quantize.MAXCOVERAGE)
    smaller.save(picture, optimize=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
