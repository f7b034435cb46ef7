"""The main way through, in a real browser against a real server.

Needs Chromium (Debian's package, or the path in CHROMIUM). Without one the test is skipped, but
in CI it fails. Set BIPCORE_SHOTS to a folder to keep a picture of each page.
"""

import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.helpers.tasks import ROWS, write_rows

pytestmark = pytest.mark.browser

ROOT = Path(__file__).resolve().parents[2]
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
LOAD = """
import sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
folder, trust = sys.argv[1], "--trust" in sys.argv
model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=trust)
tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust)
ids = tokenizer("The capital of France is", return_tensors="pt")
out = model.generate(**ids, max_new_tokens=4, do_sample=False)
print(type(model).__name__, model.config.num_attention_heads, model.config.intermediate_size)
assert out.shape[1] == ids["input_ids"].shape[1] + 4
assert "bipcore" not in sys.modules
"""


@pytest.fixture(scope="module")
def chromium() -> str:
    path = (
        os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    )
    if path is None:
        message = "there is no Chromium; install it (Debian: apt-get install chromium)"
        pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)
    return path


@pytest.fixture(scope="module")
def server(session_cache, tmp_path_factory):
    """The address of a fresh server: its log must stay free of tracebacks."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("server") / "log"
    command = [sys.executable, "-m", "streamlit", "run", "app.py", "--server.port", str(port)]
    rows = write_rows(tmp_path_factory.mktemp("data"))
    environment = {**os.environ, "BIPCORE_DATA": str(rows), "BIPCORE_WORKER": "process"}
    with log.open("w") as output:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=output)
        try:
            address = f"http://localhost:{port}"
            _wait_for(address, process)
            yield address
        finally:
            process.terminate()
            process.wait(30)
    assert "Traceback" not in log.read_text()


def _wait_for(address: str, process: subprocess.Popen, *, seconds: float = 60) -> None:
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        assert process.poll() is None, "the server ended"
        try:
            with urllib.request.urlopen(f"{address}/_stcore/health") as answer:
                if answer.status == 200:
                    return
        except OSError:
            time.sleep(0.2)
    raise AssertionError("the server did not answer")


@pytest.fixture
def page(chromium):
    """A tab 1400 pixels wide, whose console must stay free of errors of the page's own."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=list(FLAGS))
        tab = browser.new_page(viewport={"width": 1400, "height": 1000})
        tab.set_default_timeout(60_000)
        broken: list[str] = []
        tab.on("pageerror", lambda error: broken.append(str(error)))
        yield tab
        browser.close()
    assert broken == []


@contextmanager
def no_error_box(page):
    """Within it, nothing may end in an error box."""
    yield
    assert page.locator('[data-testid="stAlertContentError"]').all_inner_texts() == []
    assert page.locator('[data-testid="stException"]').count() == 0


def picture(page, name: str) -> None:
    """Keep a picture of the whole page, if asked for."""
    if folder := os.environ.get("BIPCORE_SHOTS"):
        page.wait_for_timeout(1500)
        height = page.evaluate("document.querySelector('[data-testid=stMain]').scrollHeight")
        page.set_viewport_size({"width": 1400, "height": max(1000, int(height) + 20)})
        page.wait_for_timeout(1000)
        page.screenshot(path=f"{folder}/{name}.png")
        page.set_viewport_size({"width": 1400, "height": 1000})


def follow(page, address: str) -> None:
    """Open a link, and load the settings that it brings where the page asks before it does."""
    page.goto(address)
    main = page.get_by_test_id("stMain")
    main.locator(
        "button:visible, [data-testid=stMetric], [data-testid=stProgress]"
    ).first.wait_for()
    ask = main.get_by_role("button", name="Load and score")
    if ask.count():
        ask.click()


def set_sparsity(page, percent: int) -> None:
    """Move the slider with the keyboard, as a user would."""
    thumb = page.get_by_role("slider", name="Sparsity")
    thumb.focus()
    now = int(thumb.input_value())
    for _ in range(abs(percent - now)):
        page.keyboard.press("ArrowRight" if percent > now else "ArrowLeft")
    assert int(thumb.input_value()) == percent


def metric(page, label: str) -> str:
    """The value of a metric."""
    box = page.locator('[data-testid="stMetric"]').filter(has_text=label).first
    return box.locator('[data-testid="stMetricValue"]').inner_text()


def loaded_alone(folder: Path, *flags: str) -> list[str]:
    """Class, heads and channels of an export, loaded by a process without bipcore."""
    command = [sys.executable, "-c", LOAD, str(folder), *flags]
    loaded = subprocess.run(command, cwd=folder.parent, capture_output=True, text=True)
    assert loaded.returncode == 0, loaded.stderr
    return loaded.stdout.split()


def click_first_point(page) -> None:
    """Click the first marker of the first chart, where it is on the screen."""
    points = page.locator(".js-plotly-plot").first.locator(".scatterlayer .points path")
    points.first.wait_for()
    points.first.scroll_into_view_if_needed()
    box = points.first.bounding_box()
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)


def test_from_a_deep_link_to_a_folder_that_loads(server, page, tmp_path):
    with no_error_box(page):
        follow(page, f"{server}/scores?samples=4&seq_len=64")
        page.locator(".js-plotly-plot").nth(3).wait_for()
        assert metric(page, "Removed, of the blocks") == "20.0%"
        set_sparsity(page, 40)
        page.get_by_text("asked 40%").wait_for()
        assert metric(page, "Widths of a block").startswith("6 / 3 /")
        assert "sparsity=0.4" in page.url
        picture(page, "scores")

    with no_error_box(page):
        page.get_by_role("link", name="Generate").click()
        page.get_by_role("heading", name="Generate").wait_for()
        page.get_by_label("Prompt").fill("The capital of France is")
        page.get_by_label("New tokens").fill("12")
        page.get_by_role("button", name="Generate").click()
        page.get_by_text("tokens/s").nth(1).wait_for()
        page.get_by_text("Stop", exact=True).wait_for(state="detached")
        assert page.get_by_text("40.0% removed").count() == 1
        picture(page, "generate")

    out = tmp_path / "pruned"
    with no_error_box(page):
        page.get_by_role("link", name="Export").first.click()
        page.get_by_label("Folder").fill(str(out))
        page.get_by_text("Measure the perplexity").click()
        page.get_by_role("button", name="Export").click()
        page.get_by_text("Read back as").wait_for()
        picture(page, "export")

    name, heads, channels = loaded_alone(out)
    assert (name, heads) == ("LlamaForCausalLM", "6")
    assert int(channels) < 1536


def test_a_link_is_asked_about_and_its_words_are_drawn_as_text(server, page):
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    picture_of = "![x](http://127.0.0.1:9/x.png)"
    page.goto(f"{server}/scores?model={quote(picture_of)}&samples=1000000")
    page.get_by_text("brings settings of its own").wait_for()
    page.get_by_text(f"model: {picture_of}").wait_for()
    picture(page, "link")
    page.get_by_test_id("stMain").get_by_role("button", name="Load and score").click()
    page.get_by_test_id("stAlertContentError").wait_for()
    said = page.get_by_test_id("stAlertContentError").inner_text().replace("\N{WORD JOINER}", "")
    assert picture_of in said
    assert page.get_by_test_id("stMain").locator("img").count() == 0
    assert [url for url in asked if ":9/" in url] == []
    picture(page, "link-refused")


def test_in_a_frame_of_another_site_there_is_nothing_to_press(server, page, tmp_path):
    (tmp_path / "index.html").write_text(f'<iframe src="{server}/scores" width=900 height=600>')
    handler = partial(SimpleHTTPRequestHandler, directory=tmp_path)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        page.goto(f"http://127.0.0.1:{other.server_port}/")
        inside = page.frame_locator("iframe")
        inside.get_by_text("within a page of another site").wait_for()
        assert inside.get_by_test_id("stButton").count() == 0
        assert inside.get_by_test_id("stFormSubmitButton").count() == 0
        other.shutdown()


def test_a_reload_finds_the_settings_and_a_wrong_path_is_survived(server, page):
    follow(page, f"{server}/?samples=4&seq_len=64&criterion=magnitude")
    page.locator(".js-plotly-plot").first.wait_for()
    page.reload()  # nobody is asked again
    page.locator(".js-plotly-plot").first.wait_for()
    assert page.get_by_label("Criterion").first.input_value() == "Magnitude"
    page.get_by_text("Link to this view").click()
    assert page.get_by_test_id("stSidebar").locator("code").inner_text() == page.url
    picture(page, "overview")

    page.get_by_text("demo · builtin, 4 × 64 tokens").click()
    page.get_by_label("Model", exact=True).fill("/no/such/folder")
    page.get_by_role("button", name="Load and score").click()
    main = page.get_by_test_id("stMain")
    main.get_by_text("The folder /no/such/folder does not exist").wait_for()
    picture(page, "error")
    page.get_by_label("Model", exact=True).fill("demo")
    page.get_by_role("button", name="Load and score").click()
    page.locator(".js-plotly-plot").first.wait_for()


def test_back_and_forward_bring_settings_pages_and_forms_back(server, page):
    def slider() -> int:
        return int(page.get_by_role("slider", name="Sparsity").input_value())

    def until(value: int) -> None:
        limit = time.monotonic() + 30
        while slider() != value and time.monotonic() < limit:
            page.wait_for_timeout(100)
        assert slider() == value

    with no_error_box(page):
        follow(page, f"{server}/scores?samples=4&seq_len=64")
        page.locator(".js-plotly-plot").nth(3).wait_for()
        for percent in (21, 22):
            set_sparsity(page, percent)
            page.wait_for_url(f"**sparsity=0.{percent}**")
        page.get_by_role("link", name="Sweep").click()
        page.get_by_role("heading", name="Sweep").wait_for()
        field = page.get_by_role("textbox", name="Sparsities")
        field.fill("35")
        field.press("Enter")
        page.wait_for_url("**sweep.percents=35**")
        page.go_back()  # to the form as it was
        page.wait_for_function("!location.search.includes('sweep.percents')")
        page.wait_for_function(
            "[...document.querySelectorAll('input')].every(one => one.value != '35')"
        )
        page.go_back()  # one press, and it is the page before
        page.get_by_role("heading", name="Scores").wait_for()
        page.wait_for_url("**/scores**sparsity=0.22**")
        until(22)
        page.go_back()
        page.wait_for_function("!location.search.includes('sparsity=0.22')")
        until(21)
        page.go_forward()
        until(22)
        page.go_forward()
        page.get_by_role("heading", name="Sweep").wait_for()
        page.go_forward()
        page.wait_for_url("**sweep.percents=35**")
        page.wait_for_function(
            "[...document.querySelectorAll('input')].some(one => one.value == '35')"
        )


def test_a_plan_changed_by_a_click_is_what_is_measured_and_exported(server, page, tmp_path):
    with no_error_box(page):
        follow(page, f"{server}/plan?samples=4&seq_len=64&sparsity=0.4")
        page.locator(".js-plotly-plot").nth(1).wait_for()
        before = metric(page, "Parameters")
        click_first_point(page)
        page.get_by_role("button", name="Undo", exact=True).and_(
            page.locator("button:enabled")
        ).wait_for()
        assert metric(page, "Parameters") != before
        changed = metric(page, "Parameters")
        page.get_by_role("button", name="Use this plan").click()
        page.get_by_text("A plan made by hand or for a budget is in use.").wait_for()
        picture(page, "plan")

    with no_error_box(page):
        page.get_by_role("link", name="Compare").click()
        page.get_by_role("button", name="Score them").click()
        page.locator(".js-plotly-plot").nth(7).wait_for()
        picture(page, "compare")

    with no_error_box(page):
        page.get_by_role("link", name="Reconstruction", exact=True).click()
        page.get_by_role("button", name="Measure").click()
        page.locator(".js-plotly-plot").nth(2).wait_for(timeout=240_000)
        picture(page, "reconstruction")

    out = tmp_path / "edited"
    with no_error_box(page):
        page.get_by_role("link", name="Export").first.click()
        assert metric(page, "Parameters") == changed
        page.get_by_label("Folder").fill(str(out))
        page.get_by_text("Measure the perplexity").click()
        page.get_by_role("button", name="Export").click()
        page.get_by_text("Read back as").wait_for()
        picture(page, "export-edited")
    assert loaded_alone(out, "--trust")[0] == "PrunedLlamaForCausalLM"


def test_a_sweep_draws_its_points_as_they_come(server, page):
    with no_error_box(page):
        follow(page, f"{server}/sweep?samples=4&seq_len=64")
        for role, name, value in (
            ("textbox", "Sparsities", "0, 30"),
            ("spinbutton", "Test tokens", "512"),
        ):
            field = page.get_by_role(role, name=name)
            field.fill(value)
            field.press("Enter")
        page.get_by_text("points, the dense model among them").wait_for()
        page.get_by_role("button", name="Start").click()
        page.get_by_text("Report as one HTML page").wait_for(timeout=240_000)
        page.get_by_role("button", name="Cancel").wait_for(state="detached", timeout=240_000)
        assert page.locator(".js-plotly-plot").count() >= 2
        picture(page, "sweep")


def fill(page, role: str, name: str, value: str) -> None:
    """Fill a field of the page itself, not of the sidebar, and leave it."""
    field = page.get_by_test_id("stMain").get_by_role(role, name=name, exact=True)
    field.fill(value)
    field.press("Enter")
    page.wait_for_timeout(500)


def test_a_recovery_is_trained_prompted_and_exported(server, page, tmp_path):
    with no_error_box(page):
        follow(page, f"{server}/recover?samples=4&seq_len=64&sparsity=0.4")
        page.get_by_text("has not been recovered yet").wait_for(timeout=240_000)
        page.get_by_role("combobox", name="Training text").fill("builtin")
        page.keyboard.press("Enter")
        for name, value in (("Samples", "12"), ("Tokens each", "64"), ("Batch", "4")):
            fill(page, "spinbutton", name, value)
        fill(page, "spinbutton", "Held out", "2")
        page.get_by_text("3 optimiser steps over 768 tokens of builtin").wait_for()
        page.get_by_role("button", name="Start").click()
        page.get_by_text("Step kept").wait_for(timeout=240_000)
        page.get_by_text("Prompt all three").wait_for()
        assert metric(page, "Step kept") == "3 of 3"
        page.locator(".js-plotly-plot").nth(1).wait_for()
        picture(page, "recover")

    with no_error_box(page):
        page.get_by_role("link", name="Prompt all three").click()
        page.get_by_role("heading", name="Generate").wait_for()
        page.get_by_label("New tokens").fill("6")
        page.get_by_role("button", name="Generate").click()
        page.get_by_text("prompt read in").nth(2).wait_for()
        page.get_by_text("Stop", exact=True).wait_for(state="detached")
        picture(page, "generate-recovered")

    out = tmp_path / "recovered"
    with no_error_box(page):
        page.get_by_role("link", name="Export").first.click()
        page.get_by_label("Folder").fill(str(out))
        page.get_by_text("Measure the perplexity").click()
        page.get_by_role("button", name="Export").click()
        page.get_by_text("Read back as").wait_for()
    assert loaded_alone(out)[:2] == ["LlamaForCausalLM", "6"]
    assert (out / "adapter" / "adapter_model.safetensors").is_file()


def test_zero_shot_tasks_are_measured_and_stand_beside_the_paper(server, page):
    with no_error_box(page):
        follow(page, f"{server}/zero_shot?samples=4&seq_len=64&sparsity=0.4")
        page.get_by_text("Nothing has been measured yet").wait_for(timeout=240_000)
        page.get_by_role("button", name="Start").click()
        page.get_by_text("Beside the paper").wait_for(timeout=240_000)
        page.get_by_role("button", name="Cancel").wait_for(state="detached", timeout=240_000)
        page.get_by_text(f"piqa {len(ROWS['piqa'])} of 1,838 rows").wait_for()
        page.locator(".js-plotly-plot").first.wait_for()
        picture(page, "zero-shot")

    with no_error_box(page):
        page.get_by_role("link", name="Paper").first.click()
        page.get_by_role("heading", name="Published").wait_for()
        page.get_by_text("Nothing of this has been measured on this machine yet").wait_for()
        page.get_by_text("python -m bipcore reproduce table1 --model demo --limit 8").wait_for()
        page.locator(".js-plotly-plot").first.wait_for()
        picture(page, "paper")
