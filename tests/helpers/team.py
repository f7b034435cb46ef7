"""Environments of processes that share work, as a launcher sets them."""

import socket


def environments(count: int) -> list[dict[str, str]]:
    """What each of ``count`` processes of this machine finds in its environment, the main one
    first."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    common = {
        "WORLD_SIZE": str(count),
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
    }
    return [common | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(count)]
