"""Asking a daemon for its status, on a thread of its own, so that a server that is slow holds no key press."""

from __future__ import annotations

import base64
import getpass
import queue
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from wattgram import healthcheck
from wattgram.ports import ConfigError, ReadFailed
from wattgram.tools.fetch import Fetcher, Reply
from wattgram.top.reading import Status, read

PATH = "/api/v1/status"
PORT = 14044
PATIENCE_SECONDS = 10.0
# A thousand workloads on sixteen devices are 5 MiB.
MOST_BYTES = 16 << 20
LONGEST_PASSWORD = 4096
ASK, END = "ask", "end"
OK, DENIED, NOT_FOUND = 200, 401, 404


def near(listen: str) -> str:
    """Return where a daemon of this host is asked that listens on HOST:PORT."""
    host, port = healthcheck.near(listen)
    return f"{f'[{host}]' if ':' in host else host}:{port}"


def address(text: str, *, tls: bool = False) -> str:
    """Return the URL of a daemon's status, of `host`, `host:port` or a URL; raise ConfigError for anything else.

    Without a scheme it is http, or https where a certificate is checked with a file of its own (`tls`).
    """
    whole = text if "://" in text else f"{'https' if tls else 'http'}://{text}"
    try:
        parts = urlsplit(whole)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ConfigError(f"{text}: {error}") from error
    if parts.username is not None or parts.password is not None:
        raise ConfigError("a password in an address is seen by everybody on this machine: use --user NAME")
    if parts.scheme not in ("http", "https") or not host or parts.query or parts.fragment:
        raise ConfigError(f"{text}: not an address such as gpu-01:{PORT} or https://gpu-01:{PORT}")
    if any(not c.isprintable() or c.isspace() for c in text):
        raise ConfigError("an address has no spaces and no control characters")
    # Only an address without a scheme is completed: https://power.example.org may stand behind a proxy.
    number = port if port is not None else None if "://" in text else PORT
    place = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{place}{f':{number}' if number else ''}{parts.path.rstrip('/').removesuffix(PATH)}{PATH}"


def credentials(user: str, password_file: str, ask: Callable[[str], str] = getpass.getpass) -> dict[str, str]:
    """Return the header that proves who asks; empty without a user. The password comes from a file or a prompt."""
    if not user:
        if password_file:
            raise ConfigError("--password-file needs --user NAME")
        return {}
    if ":" in user:
        raise ConfigError("--user: a name has no colon")
    if password_file:
        try:
            with Path(password_file).open("rb") as file:  # a pipe of a password manager, too
                password = file.read(LONGEST_PASSWORD).decode().split("\n", 1)[0].rstrip("\r")
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"--password-file {password_file}: {getattr(error, 'strerror', None) or error}"
            ) from error
    elif sys.stdin.isatty():
        password = ask(f"Password of {user}: ")
    else:
        raise ConfigError("nobody is there to be asked for a password: use --password-file FILE")
    word = base64.b64encode(f"{user}:{password}".encode()).decode()
    return {"Authorization": f"Basic {word}"}


class Client:
    """Asks one daemon, once at a time."""

    def __init__(self, url: str, headers: Mapping[str, str], ca_file: str = "") -> None:
        self.url = url
        self._headers = dict(headers)
        self._fetcher = Fetcher(PATIENCE_SECONDS, MOST_BYTES, ca_file=ca_file)

    def status(self) -> Status:
        """Return what it says now; raise ReadFailed with what is to be done, where that is known."""
        reply = self._fetcher.get(self.url, {}, self._headers)
        if reply.status != OK:
            raise ReadFailed(self._refusal(reply), "server")
        return read(reply.json())

    def _refusal(self, reply: Reply) -> str:
        if reply.status == DENIED:
            asked = "this name and password are not taken" if self._headers else "it asks for a password: --user NAME"
            return f"{self.url}: {asked}"
        if reply.status == NOT_FOUND:
            return f"{self.url}: not found; is this a wattgram?"
        return f"{self.url}: HTTP {reply.status}: {reply.excerpt().strip()}"

    def end(self) -> None:
        """End for good what is being asked."""
        self._fetcher.end()


class Asker:
    """Asks on a thread of its own when told to; calls `told` when an answer waits."""

    def __init__(self, client: Client, told: Callable[[], None]) -> None:
        self._answers: queue.SimpleQueue[Status | Exception] = queue.SimpleQueue()
        self.is_asking = False
        self._client, self._told = client, told
        self._wishes: queue.SimpleQueue[str] = queue.SimpleQueue()
        threading.Thread(target=self._work, name="ask", daemon=True).start()

    def ask(self) -> None:
        """Ask, unless an answer is still awaited."""
        if not self.is_asking:
            self.is_asking = True
            self._wishes.put(ASK)

    def taken(self) -> Status | ReadFailed | None:
        """Return an answer that came, which may be a failure; None: none did. A bug of the thread is raised here."""
        try:
            answer = self._answers.get_nowait()
        except queue.Empty:
            return None
        self.is_asking = False
        if isinstance(answer, Status | ReadFailed):
            return answer
        raise answer

    def end(self) -> None:
        """Let the thread end."""
        self._wishes.put(END)
        self._client.end()

    def _work(self) -> None:
        while self._wishes.get() == ASK:
            answer: Status | Exception
            try:
                answer = self._client.status()
            except Exception as error:  # noqa: BLE001 - a bug is raised where the terminal is given back
                answer = error
            self._answers.put(answer)
            self._told()
