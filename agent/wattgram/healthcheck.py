"""Does the daemon answer? What a container engine asks every minute, so it costs as little as it can.

One line of HTTP over a socket: whatever answers there speaks HTTP, and that is all that is asked. A daemon with TLS or
with passwords answers too, that this is not how it is to be asked. No client library is loaded for that.
"""

from __future__ import annotations

import socket
import time

PATIENCE_SECONDS = 4.0
QUESTION = b"GET /-/healthy HTTP/1.0\r\nUser-Agent: wattgram-healthcheck\r\n\r\n"
NEAR = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - asked, not listened on
# Right, wrong port, wants a password, wants fewer of us: each is the word of a daemon that lives.
ALIVE = (200, 400, 401, 429)
LONGEST_LINE = 4096


def near(listen: str) -> tuple[str, int]:
    """Return host and port at which a daemon that listens on HOST:PORT is reached from this machine."""
    host, _, port = listen.rpartition(":")
    host = host.strip("[]")
    return NEAR.get(host, host), int(port)


def trouble(listen: str, patience: float = PATIENCE_SECONDS) -> str:
    """Return why the daemon that listens there is not well; empty: it answers."""
    place = near(listen)
    try:
        line = _first_line(place, time.monotonic() + patience)
    except OSError as error:
        return f"{listen}: {error.strerror or error}"
    words = line.split(b" ", 2)
    if len(words) < 2 or not words[0].startswith(b"HTTP/1.") or not words[1].isdigit():  # noqa: PLR2004 - version, status
        return f"{listen}: what answers there does not speak HTTP"
    return "" if int(words[1]) in ALIVE else f"{listen}: it answers with status {int(words[1])}"


def _first_line(place: tuple[str, int], deadline: float) -> bytes:
    """The first line of the answer; raise OSError when it does not come in time."""
    line = b""
    with socket.create_connection(place, timeout=_left(deadline)) as connection:
        connection.sendall(QUESTION)
        while b"\r\n" not in line and len(line) < LONGEST_LINE:
            connection.settimeout(_left(deadline))
            more = connection.recv(LONGEST_LINE)
            if not more:
                raise ConnectionResetError("it closed the connection and said nothing")
            line += more
    return line.partition(b"\r\n")[0]


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("no answer in time")
    return left
