"""The server as its process: who may reach it, and how it ends."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path

import pytest
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ClientState_pb2 import ClientState
from websockets.sync.client import connect

from ui.engines import PLACE

ROOT = Path(__file__).resolve().parents[2]
UPGRADE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}
BUSY = """
from functools import partial
from tests.helpers import works
from ui.jobs import worker

worker().submit("busy", "Endless", partial(works.busy, {reached!r}))
import streamlit as st
st.write("busy")
"""


@contextmanager
def served(script: Path, log: Path, **environment: str):
    """A server of its own that runs ``script``, from the folder of the app; process and port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "streamlit", "run", str(script), "--server.port", str(port)]
    env = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    with log.open("w") as output:
        process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=output, stderr=output)
        try:
            _wait_for(port, process)
            yield process, port
        finally:
            process.kill()
            process.wait()


def _wait_for(port: int, process: subprocess.Popen, *, seconds: float = 120) -> None:
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        assert process.poll() is None, "the server ended"
        try:
            with urllib.request.urlopen(f"http://localhost:{port}/_stcore/health") as answer:
                if answer.status == 200:
                    return
        except OSError:
            time.sleep(0.1)
    raise AssertionError("the server did not answer")


def _lives(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"  # where nobody asks how it ended


def _connected(port: int, host: str, origin: str = "") -> int:
    """The status that a browser gets which opens the app under the name ``host``."""
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    headers = UPGRADE | {"Host": host, "Origin": origin or f"http://{host}"}
    connection.request("GET", "/_stcore/stream", headers=headers)
    status = connection.getresponse().status
    connection.close()
    return status


def _open_page(port: int, done) -> None:
    """Run the script, as a browser that opens the page does, and stay until ``done()``."""
    address = f"ws://localhost:{port}/_stcore/stream"
    origin = f"http://localhost:{port}"
    with connect(address, origin=origin, subprotocols=["streamlit"], proxy=None) as session:
        session.send(BackMsg(rerun_script=ClientState()).SerializeToString())
        limit = time.monotonic() + 120
        while not done():
            assert time.monotonic() < limit
            time.sleep(0.05)


@pytest.mark.parametrize("place", ["process", "thread"])
def test_only_names_of_this_machine_reach_the_app_and_a_busy_server_ends_at_once(tmp_path, place):
    reached, script = tmp_path / "reached", tmp_path / "busy.py"
    script.write_text(BUSY.format(reached=str(reached)))
    own = {"BIPCORE_CACHE": str(tmp_path / "store"), PLACE: place}
    with served(script, tmp_path / "log", **own) as (process, port):
        for name in ("localhost", "127.0.0.1", "[::1]"):
            assert _connected(port, f"{name}:{port}") == 101
        for name in ("evil.example", "localhost.evil.example", "127.0.0.1.evil.example"):
            assert _connected(port, f"{name}:{port}") == 403
        assert _connected(port, f"localhost:{port}", "http://evil.example") == 403
        _open_page(port, lambda: reached.exists() and reached.read_text())
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=20)
    worker = int(reached.read_text())
    assert (worker == process.pid) == (place == "thread")
    limit = time.monotonic() + 30
    while _lives(worker):
        assert time.monotonic() < limit, "the worker outlives its server"
        time.sleep(0.1)
    assert "Traceback" not in (tmp_path / "log").read_text()
