"""What the server and its worker process say to each other.

Both ends are this program on this machine, joined by a socket that has no name, so what comes
through may be objects. Nothing else is ever sent so, or written to a file.
"""

import pickle
import socket
from multiprocessing.connection import Connection
from threading import Lock
from typing import Any

Gone = (EOFError, OSError)
"""What is raised where nobody is at the other end any more."""


class Pipe:
    """One end. Any thread may send; one receives."""

    def __init__(self, descriptor: int):
        self._connection = Connection(descriptor)
        self._sending = Lock()

    def send(self, *said: Any) -> None:
        """Say something; raises one of `Gone`, or what pickle does of what cannot be sent."""
        data = pickle.dumps(said)
        with self._sending:
            self._connection.send_bytes(data)

    def receive(self) -> tuple[Any, ...]:
        """What was said, once it is there; raises one of `Gone`."""
        return pickle.loads(self._connection.recv_bytes())

    def waits(self, seconds: float) -> bool:
        """Whether something is there within that time; also where nobody is."""
        return self._connection.poll(seconds)

    def close(self) -> None:
        """Say no more; the other end is told."""
        self._connection.close()


def pair() -> tuple[Pipe, socket.socket]:
    """One end, and the socket that another process makes the other end of."""
    own, other = socket.socketpair()
    return Pipe(own.detach()), other
