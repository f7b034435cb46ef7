"""A random walk over all pages in a real browser: whatever is pressed, nothing breaks.

Two minutes by default; `BIPCORE_WALK=900 BIPCORE_WALK_SEED=7` walks longer, and another way.
"""

import os
import random
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.app.test_browser import FLAGS, ROOT, _wait_for
from tests.app.test_browser import chromium as chromium
from tests.helpers.folders import model_folder
from tests.helpers.tasks import write_rows

pytestmark = pytest.mark.browser

SECONDS = float(os.environ.get("BIPCORE_WALK", "120"))
SEED = int(os.environ.get("BIPCORE_WALK_SEED", "0"))
GROWTH = 400 * 2**20
"""Bytes that server and worker may grow by from the first third of the walk to its end."""

FRESH = 60  # actions, after which a new tab starts with good settings
TYPED = ("", "0", "-1", "3", "64", "30, 50", "abc", "1e9", "ü×─", "<b>", "half")
KINDS = {
    "link": ("[data-testid=stPageLink-NavLink]", 3),
    "button": ("button[data-testid^=stBaseButton], button[data-testid^=stNumberInputStep]", 4),
    "choice": ("[data-testid=stSelectbox] input", 2),
    "choices": ("[data-testid=stMultiSelect] input", 1),
    "slider": ("[data-testid=stSlider] [role=slider], [data-testid=stSlider] input", 1),
    "box": ("[data-testid=stCheckbox] label", 1),
    "text": ("[data-testid=stTextInput] input, [data-testid=stNumberInput] input", 2),
    "area": ("textarea[aria-label]", 1),
    "fold": ("[data-testid=stExpander] summary", 1),
    "tab": ("[data-testid=stTab]", 1),
    "back": ("body", 1),
    "forward": ("body", 1),
}
"""What is done, to which elements, and how often beside the others."""

LEFT_ALONE = ("Browse files", "Upload", "Close sidebar")


@pytest.fixture
def walked(tmp_path):
    """The address of a server of its own, its process, and its log, in a folder that exports may be
    written to."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    shutil.copytree(ROOT / ".streamlit", tmp_path / ".streamlit")
    command = [sys.executable, "-m", "streamlit", "run", str(ROOT / "app.py")]
    own = {"BIPCORE_CACHE": str(tmp_path / "store"), "BIPCORE_WORKER": "process"}
    own |= {"BIPCORE_DATA": str(write_rows(tmp_path / "data")), "HF_HUB_OFFLINE": "1"}
    log = tmp_path / "log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [*command, "--server.port", str(port)],
            cwd=tmp_path,
            env={**os.environ, **own},
            stdout=output,
            stderr=output,
        )
        try:
            address = f"http://localhost:{port}"
            _wait_for(address, process)
            yield address, process.pid, log
        finally:
            process.terminate()
            process.wait(30)


def memory(server: int) -> int:
    """Resident bytes of the server and of the processes it has started."""
    children = Path(f"/proc/{server}/task/{server}/children").read_text().split()
    found = 0
    for process in (server, *map(int, children)):
        try:
            said = Path(f"/proc/{process}/status").read_text()
        except FileNotFoundError:
            continue
        lines = [line for line in said.splitlines() if line.startswith("VmRSS:")]
        found += sum(int(line.split()[1]) * 1024 for line in lines)
    return found


def act(page, chance: random.Random) -> str:
    """Do something that can be done on the page as it is; what it was."""
    kind = chance.choices(list(KINDS), [weight for _, weight in KINDS.values()])[0]
    if kind in ("back", "forward"):
        page.go_back(timeout=3000) if kind == "back" else page.go_forward(timeout=3000)
        return kind
    seen = [one for one in page.locator(KINDS[kind][0]).all() if one.is_visible()]
    if not seen:
        return f"no {kind}"
    place = chance.choice(seen)
    said = (place.get_attribute("aria-label") or place.inner_text() or "")[:40]
    if any(word in said for word in LEFT_ALONE) or not place.is_enabled():
        return f"{kind} {said!r} left alone"
    if kind == "slider":
        place.focus()
        for _ in range(chance.randrange(1, 6)):
            page.keyboard.press(chance.choice(("ArrowLeft", "ArrowRight", "Home", "End")))
    elif kind in ("choice", "choices"):
        place.click()
        for _ in range(chance.randrange(0, 5)):
            page.keyboard.press("ArrowDown")
        page.keyboard.press("Enter")
        page.keyboard.press("Escape")
    elif kind in ("text", "area"):
        typed = chance.choice(TYPED)
        place.fill(typed)
        place.press("Enter" if kind == "text" else "Control+Enter")
        said = f"{said}={typed}"
    else:
        place.click()
    return f"{kind} {said!r}"


def opened(browser, address: str, model: str, share: str, faults: list[str]):
    """A new tab on the start page of a model, loaded or being loaded."""
    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    page.set_default_timeout(3000)
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.goto(f"{address}/?model={model}&samples=4&seq_len=64&sparsity={share}", timeout=60_000)
    ask = page.get_by_test_id("stMain").get_by_role("button", name="Load and score")
    ask.or_(page.locator(".js-plotly-plot").first).first.wait_for(timeout=60_000)
    if ask.count():
        ask.click()
    return page


def test_a_random_walk_breaks_nothing(walked, chromium, tmp_path):
    from playwright.sync_api import Error, sync_playwright

    address, server, log = walked
    models = [str(model_folder(tmp_path / name, name)) for name in ("llama", "qwen2")]
    chance, did, faults = random.Random(SEED), [], []
    start, before = time.monotonic(), None
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=list(FLAGS))
        page = None
        while (spent := time.monotonic() - start) < SECONDS and not faults:
            if len(did) % FRESH == 0:
                if page is not None:
                    page.close()
                way = chance.choice(models), chance.choice(("0.2", "0.5"))
                page = opened(browser, address, *way, faults)
            try:
                did.append(act(page, chance))
            except Error as error:  # gone, covered or not there any more
                did.append(f"could not: {str(error).splitlines()[0][:80]}")
            page.wait_for_timeout(chance.choice((50, 300, 800)))
            faults.extend(page.locator("[data-testid=stException]").all_inner_texts())
            if before is None and spent > SECONDS / 3:
                before = memory(server)
        browser.close()
    grown = memory(server) - before
    print(f"{len(did)} actions with seed {SEED}; grown by {grown / 2**20:,.0f} MiB")
    assert faults == [], did[-20:]
    assert "Traceback" not in log.read_text(), (log.read_text()[-3000:], did[-20:])
    done = [one for one in did if not one.startswith(("no ", "could not"))]
    assert len(done) > len(did) / 4, did
    assert grown < GROWTH
