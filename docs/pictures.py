"""Take the pictures of the docs from the running app.

    python docs/pictures.py                 # all of them
    python docs/pictures.py scores closeup  # these

It starts the app on a port of its own over the run store, with the demo model, lets the pages
compute what they show, and keeps a picture of each beside this file. It needs Chromium (Debian's
package, or the path in CHROMIUM) and what `make test` installs.
"""

import argparse
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

HERE = Path(__file__).parent
WIDTH, HEIGHT = 1440, 1000
PATIENCE = 600_000  # milliseconds, for what a page computes


@dataclass(frozen=True)
class Picture:
    """A page: its address, the buttons to press in their order, a CSS selector of what is there
    when it is done, and how high the picture is at most."""

    address: str
    shows: str
    press: tuple[str, ...] = ()
    highest: int = HEIGHT


CHART = ".js-plotly-plot"
PICTURES = {
    "scores": Picture("/scores?sparsity=0.4", f"{CHART} >> nth=3", highest=2400),
    "plan": Picture("/plan?sparsity=0.4", CHART, highest=1200),
    "changes": Picture("/changes?sparsity=0.2", "[data-testid=stDataFrame]", ("Compare",)),
    "closeup": Picture(
        "/closeup?sparsity=0.4&kind=head&block=5&number=2", CHART, ("Compute",), highest=1800
    ),
    "runs": Picture("/runs", "[data-testid=stDataFrame]"),
}


@contextmanager
def app() -> Iterator[str]:
    """The address of the app while it runs."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"http://localhost:{free.getsockname()[1]}"
    port = address.rpartition(":")[2]
    command = [sys.executable, "-m", "streamlit", "run", "app.py", "--server.port", port]
    process = subprocess.Popen(command, cwd=HERE.parent, stdout=subprocess.DEVNULL)
    try:
        while not _answers(address):
            if process.poll() is not None:
                sys.exit("The app ended; see what it says above.")
            time.sleep(0.5)
        yield address
    finally:
        process.terminate()
        process.wait(30)


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/_stcore/health") as answer:
            return answer.status == 200
    except OSError:
        return False


def take(page: Page, address: str, name: str) -> None:
    """Open a page, let it compute, and keep its picture."""
    wanted = PICTURES[name]
    page.set_viewport_size({"width": WIDTH, "height": HEIGHT})
    page.goto(address + wanted.address)
    main = page.get_by_test_id("stMain")
    main.locator(
        "button:visible, [data-testid=stMetric], [data-testid=stProgress]"
    ).first.wait_for()
    ask = main.get_by_role("button", name="Load and score")
    if ask.count():
        ask.click()
    for button in wanted.press:
        main.get_by_role("button", name=button, exact=True).click()
    main.locator(wanted.shows).first.wait_for()
    page.get_by_test_id("stStatusWidget").wait_for(state="detached")
    high = page.evaluate("document.querySelector('[data-testid=stMain]').scrollHeight")
    size = {"width": WIDTH, "height": min(max(HEIGHT, int(high)), wanted.highest)}
    page.set_viewport_size(size)
    page.wait_for_timeout(3000)
    page.screenshot(path=HERE / f"{name}.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", choices=[*PICTURES, []], default=list(PICTURES))
    names = parser.parse_args().names
    path = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if path is None:
        sys.exit("There is no Chromium; install it (Debian: apt-get install chromium).")
    with app() as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        page = browser.new_page()
        page.set_default_timeout(PATIENCE)
        for name in names:
            take(page, address, name)
            print(HERE / f"{name}.png", flush=True)
        browser.close()


if __name__ == "__main__":
    main()
