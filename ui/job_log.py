"""What was asked of the worker, in a file of the run store that outlives the server.

A job of a server that is gone was interrupted: what it stored is kept, and its page goes on from
there. SQLite lets several servers on one store write to it. Where the file cannot be had, as on a
full or read-only disk, nothing is listed and nothing else is lost.
"""

import json
import logging
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from bipcore.errors import InputError
from bipcore.store.roots import MARK, mark
from bipcore.store.runs import RunStore

Place = tuple[str, dict[str, str]]
"""The file of a page, as `navigation.PAGES` has it, and what its address says."""

FILE = "jobs.sqlite3"
INTERRUPTED = "interrupted"
_OPEN = ("queued", "running")
_KEPT = 200  # jobs
_SHOWN = 5
_DAYS = 7 * 86400  # seconds: what was interrupted before that is not told any more

_TABLE = """CREATE TABLE IF NOT EXISTS jobs (
    id INTEGER PRIMARY KEY, server TEXT NOT NULL, key TEXT NOT NULL, title TEXT NOT NULL,
    page TEXT, query TEXT, state TEXT NOT NULL, asked REAL NOT NULL, ended REAL, error TEXT)"""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Listed:
    """A job of another server, that has gone: what it was, where it was asked for, and when."""

    number: int
    key: str
    title: str
    place: Place | None
    asked: float


class JobLog:
    """The jobs of all servers on one run store; of this one by what `add` gave."""

    def __init__(self, root: Path | None = None):
        self._root = root
        self.server = f"{os.getpid()}:{_started(os.getpid())}"

    def add(self, key: str, title: str, place: Place | None) -> int | None:
        """List a job that waits; the number that it has there, None where it cannot be listed."""
        page, query = (place[0], json.dumps(place[1])) if place else (None, None)
        row = (self.server, key, title, page, query, "queued", time.time())
        with self._open(make=True) as file:
            if file is None:
                return None
            columns = "server, key, title, page, query, state, asked"
            added = file.execute(f"INSERT INTO jobs ({columns}) VALUES (?,?,?,?,?,?,?)", row)
            file.execute("DELETE FROM jobs WHERE id <= ?", (added.lastrowid - _KEPT,))
            return added.lastrowid
        return None

    def say(self, number: int | None, state: str, error: str | None = None) -> None:
        """Say how a job is."""
        ended = None if state in _OPEN else time.time()
        with self._open() as file:
            if file is not None and number is not None:
                values = (state, ended, error, number)
                file.execute("UPDATE jobs SET state=?, ended=?, error=? WHERE id=?", values)

    def interrupted(self) -> list[Listed]:
        """The jobs whose server went before they had ended, and that were not asked for again
        since, the latest first."""
        rows: list[tuple] = []
        with self._open() as file:
            if file is None:
                return []
            self._mark(file)
            rows = file.execute(
                "SELECT id, key, title, page, query, asked FROM jobs AS one "
                "WHERE state=? AND asked>? AND NOT EXISTS "
                "(SELECT 1 FROM jobs WHERE key=one.key AND id>one.id) ORDER BY id DESC LIMIT ?",
                (INTERRUPTED, time.time() - _DAYS, _SHOWN),
            ).fetchall()
        return [Listed(*row[:3], _place(*row[3:5]), row[5]) for row in rows]

    def forget(self, number: int) -> None:
        """Tell of a job no longer."""
        with self._open() as file:
            if file is not None:
                file.execute("DELETE FROM jobs WHERE id=?", (number,))

    def _mark(self, file: sqlite3.Connection) -> None:
        """See which servers have gone."""
        asked = f"SELECT DISTINCT server FROM jobs WHERE state IN {_OPEN}"
        for (server,) in file.execute(asked).fetchall():
            if server != self.server and not _lives(server):
                said = f"UPDATE jobs SET state=? WHERE server=? AND state IN {_OPEN}"
                file.execute(said, (INTERRUPTED, server))

    @contextmanager
    def _open(self, *, make: bool = False) -> Iterator[sqlite3.Connection | None]:
        """The file, made with its store where that is asked for; None where it is not there or
        cannot be used. What fails with it ends what is within, and no more."""
        given = False
        try:
            root = self._root or RunStore().root
            if make and not (root / MARK).exists():
                mark(root)
            if not make and not (root / FILE).exists():
                given = True
                yield None
                return
            with closing(sqlite3.connect(root / FILE, timeout=2.0)) as file, file:
                file.execute(_TABLE)
                given = True
                yield file
        except (sqlite3.Error, OSError, InputError) as error:
            log.warning("The list of jobs cannot be used: %s", error)
            if not given:
                yield None


def _place(page: str | None, query: str | None) -> Place | None:
    return None if page is None else (page, json.loads(query or "{}"))


def _started(process: int) -> str:
    """When a process began, in ticks since the machine did: its number alone comes back."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def _lives(server: str) -> bool:
    """Whether the process of that name is there still, on this machine."""
    process, _, started = server.partition(":")
    try:
        os.kill(int(process), 0)
    except (ProcessLookupError, ValueError):
        return False
    except PermissionError:
        pass
    return _started(int(process)) == started
