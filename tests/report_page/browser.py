"""Opens a report page in a real browser, from a file, and uses it as a reader does: filters, pointer, keyboard.

    browser.py MYELON_PERF RESULTS BROWSER

RESULTS is a sweep with auto and NCCL that --json wrote; rows of another type, and a wrong one, are made of it. Ends with a
message and status 1 at the first thing that is not as it should be.
"""

import json
import pathlib
import subprocess
import sys
import tempfile

from playwright.sync_api import sync_playwright

SIZES = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


def expect(truth, what):
    if not truth:
        sys.exit(f"browser.py: {what}")


def words(value):
    """A number as the page writes it."""
    return f"{value:.0f}" if value >= 99.95 else f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"


def write_page(perf, source, folder):
    """The page of RESULTS with bf16 rows that took twice as long, a named variant, and a wrong row of it."""
    run = json.loads(pathlib.Path(source).read_text())
    auto = [row for row in run["rows"] if row["requested"] == "auto"]
    expect(len(auto) > 3, f"{source} has no rows of auto")
    double = lambda row: {name: 2 * value for name, value in row["time_us"].items()}
    run["rows"] += [{**row, "dtype": "bf16", "time_us": double(row)} for row in auto]
    run["rows"] += [{**row, "requested": "ring", "variant": "ring", "time_us": double(row)} for row in auto]
    run["rows"][-1]["wrong"] = 7
    results, page = folder / "run.json", folder / "report.html"
    results.write_text(json.dumps(run))
    subprocess.run([perf, "report", results, "-o", page], check=True, timeout=60)
    return auto, page


def value_of(page, name):
    """What the reading says of a curve: its time in microseconds, as words; None where it says nothing."""
    item = page.locator(f'#reading li[data-name="{name}"] .value')
    return item.inner_text().split(" ")[0] if item.count() else None


def size_read(page):
    number, unit = page.locator("#reading strong").inner_text().split(",")[0].split(" ")
    return int(float(number) * SIZES[unit])


def use(page, auto):
    p50 = {row["bytes"]: row["time_us"]["p50"] for row in auto}
    sizes = sorted(p50)
    columns = lambda: page.locator("#table thead th").all_inner_texts()
    curve = lambda name: page.locator(f'#time path.curve[data-name="{name}"]').count()

    # Filters: a type changes the values, and what is shown says so.
    expect(page.locator("#dtype option").all_inner_texts() == ["bf16", "f32"], "the types are not offered")
    page.select_option("#dtype", "f32")
    page.locator("#time svg").focus()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    expect(size_read(page) == sizes[1], "the arrow key does not go to the second size")
    expect(value_of(page, "Myelon") == words(p50[sizes[1]]), f"Myelon reads {value_of(page, 'Myelon')}, not {p50[sizes[1]]}")
    expect(value_of(page, "NCCL"), "NCCL is not read")
    page.select_option("#dtype", "bf16")
    expect("bf16 sum" in page.locator("#table caption").inner_text(), "the table is not of the type that was chosen")
    page.locator("#busbw svg").focus()
    page.keyboard.press("End")
    expect(value_of(page, "Myelon") == words(2 * p50[sizes[-1]]), "the values are not of the type that was chosen")
    page.keyboard.press("Escape")
    expect(page.locator("#reading").inner_text() == "", "Escape does not put the reading away")
    page.select_option("#dtype", "f32")

    # The pointer: over the middle of the third size's point.
    mark = page.locator('#time path.mark[data-name="Myelon"]').nth(2).bounding_box()
    page.mouse.move(mark["x"] + mark["width"] / 2, mark["y"] + 40)
    expect(size_read(page) == sizes[2], "the pointer does not find the nearest size")

    # Curves: one, and all variants, by mouse and by keyboard.
    expect(curve("ring") == 1 and "ring" in columns(), "a named variant is not shown")
    page.get_by_label("ring", exact=True).uncheck()
    expect(curve("ring") == 0 and "ring" not in columns(), "a variant that is switched off is still shown")
    page.locator("#variants").focus()
    page.keyboard.press("Enter")
    expect(curve("ring") == 1 and curve("Myelon") == 1, "the button does not bring the variants back")
    expect(page.evaluate("document.activeElement.id") == "variants", "the focus is lost when the page is drawn again")
    expect(page.locator("#table td.wrong").count() == 1, "the wrong result does not say so")

    # What the hardware allows stands beside its source.
    lines = page.locator("#lines").inner_text()
    expect("data sheet" in lines and "PERFORMANCE.md" in lines, f"the lines have no source: {lines}")
    expect(page.locator("#busbw path.allowed").count() == 2, "the link's rate and the floor are not drawn")


def main():
    perf, source, browser = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        auto, file = write_page(perf, source, pathlib.Path(folder))
        chromium = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"], timeout=60_000)
        colours = set()
        for scheme in ["light", "dark"]:
            page = chromium.new_page(color_scheme=scheme)
            page.set_default_timeout(20_000)
            said, asked = [], []
            page.on("pageerror", lambda error: said.append(str(error)))
            page.on("console", lambda message: said.append(message.text))
            page.on("request", lambda request: asked.append(request.url))
            page.goto(file.as_uri())
            use(page, auto)
            page.set_viewport_size({"width": 390, "height": 800})
            expect(page.evaluate("document.documentElement.scrollWidth") <= 390, "a narrow screen has to scroll sideways")
            colours.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
            expect(not said, f"the page complains: {said}")
            expect(asked == [file.as_uri()], f"the page asks for more than itself: {asked}")
        expect(len(colours) == 2, f"light and dark look alike: {colours}")
        chromium.close()
    print("the page was read, filtered and steered, in light and dark")


main()
