"""Who may look: holds what web.config.yml asks for, sees when a file changes, and keeps the last good state.

Everything here is called from the server's event loop, but for the first reading, which comes before it.
"""

from __future__ import annotations

import base64
import contextlib
import logging
import math
import ssl
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path

from wattgram.ports import ConfigError
from wattgram_exporters import tls, webconfig
from wattgram_exporters.exchange import Request, Response
from wattgram_exporters.passwords import Busy, Passwords
from wattgram_exporters.webconfig import REQUIRED, Settings

RETRY_SECONDS = 5.0
# OpenSSL keeps up to 20 000 sessions of TLS 1.2 with a context, a kilobyte each, and Python cannot tell it not to.
MOST_SESSIONS = 1000
UNAUTHORIZED = Response(401, b"Unauthorized\n", {"WWW-Authenticate": "Basic"})
POLICY = "Content-Security-Policy"
NOBODY = b"$QOauhQNbBCuQDKes6eFzPeMqBSjb7Mr5DUmpZ/VcEd00UAV/LDeSi"
Stamp = tuple[int, ...]
Monotonic = Callable[[], float]

log = logging.getLogger("wattgram")


def credentials(header: str) -> tuple[bytes, bytes] | None:
    """Return user and password of an Authorization header; None: it gives none that can be understood."""
    scheme, _, code = header.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        user, colon, password = base64.b64decode(code.strip(), validate=True).partition(b":")
    except ValueError:
        return None
    return (user, password) if colon else None


class Bucket:
    """A rate limit as Go's: `burst` at once, and one more every `interval` seconds."""

    def __init__(self, interval: float, burst: int, monotonic: Monotonic) -> None:
        self._interval, self._burst, self._monotonic = interval, burst, monotonic
        self._tokens, self._at = float(burst), monotonic()

    def takes(self) -> bool:
        """Whether one more may come now; it counts."""
        now = self._monotonic()
        self._tokens = min(self._burst, self._tokens + (now - self._at) / self._interval)
        self._at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


class Guard:
    """Says who may look, by the file named; without one, anybody."""

    def __init__(self, config_file: str = "", monotonic: Monotonic = time.monotonic) -> None:
        """Read the file at once; raise ConfigError when it cannot be used."""
        self._path = Path(config_file) if config_file else None
        self._monotonic = monotonic
        self._settings = Settings()
        self._context: ssl.SSLContext | None = None
        self._bucket: Bucket | None = None
        self._passwords: Passwords | None = None
        self._stamps: dict[Path, Stamp] = {}
        self._complaint, self._remark = "", ""
        self._tried_at = monotonic()
        self._handed_out = 0
        if self._path:
            settings = self._read(self._path)
            self._take(settings, tls.context(settings.tls) if settings.tls else None)

    @property
    def is_tls(self) -> bool:
        """Whether connections are encrypted; that does not change while we run."""
        return self._context is not None

    @property
    def is_open(self) -> bool:
        """Whether anybody may look, without a password or a certificate of the client."""
        settings = self._settings
        return not settings.users and not (settings.tls and settings.tls.client_auth == REQUIRED)

    def context(self) -> ssl.SSLContext:
        """Return what the next connection is encrypted with."""
        self._look()
        self._handed_out += 1
        if self._handed_out % MOST_SESSIONS == 0 and self._settings.tls:
            with contextlib.suppress(ConfigError):  # it is being replaced: the old one does for now
                self._context = tls.context(self._settings.tls)
        assert self._context is not None
        return self._context

    def admits(self, names: Collection[tuple[str, str]]) -> bool:
        """Whether a client whose certificate has these names may come in."""
        return tls.is_allowed(names, self._settings.tls.sans if self._settings.tls else None)

    async def refusal(self, request: Request) -> Response | None:
        """Return the answer to one who may not look; None: to be answered."""
        self._look()
        if self._bucket and not self._bucket.takes():
            return _too_many(self._settings.interval)
        if not self._settings.users or self._passwords is None:
            return None
        given = credentials(request.headers.get("authorization", ""))
        if given is None:
            return UNAUTHORIZED
        hashed = self._settings.users.get(given[0])
        try:
            is_right = await self._passwords.is_right(*given, hashed or _nobody(self._settings.users), request.peer)
        except Busy:
            return _too_many(1.0)
        return None if is_right and hashed else UNAUTHORIZED

    def dressed(self, response: Response) -> Response:
        """Return an answer with the headers that were asked for; its own stand, two content policies hold both."""
        wanted = self._settings.headers
        if not wanted:
            return response
        headers = {**wanted, **response.headers}
        if POLICY in wanted and POLICY in response.headers:
            headers[POLICY] = f"{response.headers[POLICY]}, {wanted[POLICY]}"
        return Response(response.status, response.body, headers)

    def close(self) -> None:
        """Let its thread end."""
        if self._passwords:
            self._passwords.close()

    # --- changes --------------------------------------------------------------------------------

    def _look(self) -> None:
        """Take what has changed in the files; what cannot be used is said once, and tried again."""
        if self._path is None or not self._is_due():
            return
        self._tried_at = self._monotonic()
        try:
            settings = self._read(self._path)
            if (settings.tls is not None) is not self.is_tls:
                settings, context = replace(settings, tls=self._settings.tls), self._context
                self._warn(f"{self._path}: TLS is turned on or off by a restart only")
            else:
                context = tls.context(settings.tls) if settings.tls else None
            self._take(settings, context)
        except ConfigError as error:
            if str(error) != self._complaint:
                self._complaint = str(error)
                log.warning("%s is not taken, the last good state stays in force: %s", self._path, error)
            return
        log.info("%s was read again%s", self._path, " and is good now" if self._complaint else "")
        self._complaint = ""

    def _is_due(self) -> bool:
        if any(_stamp(path) != stamp for path, stamp in self._stamps.items()):
            return True
        # What failed for want of a descriptor or a mount leaves no trace in the files.
        return bool(self._complaint) and self._monotonic() - self._tried_at > RETRY_SECONDS

    def _read(self, path: Path) -> Settings:
        """Return what the file asks for. Stamps are taken first: a change meanwhile is seen at the next look."""
        self._stamps = {known: _stamp(known) for known in (*self._stamps, path)}
        settings = webconfig.read(path)
        files = settings.tls.files if settings.tls else ()
        self._stamps = {path: self._stamps[path], **{file: _stamp(file) for file in files}}
        return settings

    def _take(self, settings: Settings, context: ssl.SSLContext | None) -> None:
        if settings.users and self._passwords is None:
            self._passwords = Passwords(webconfig.comparer())
        if (settings.interval, settings.burst) != (self._settings.interval, self._settings.burst):
            rate = (settings.interval, settings.burst, self._monotonic)
            self._bucket = Bucket(*rate) if settings.interval else None
        self._settings, self._context = settings, context
        if settings.tls and len(settings.tls.curves) > 1:
            only = tls.curve(settings.tls.curves)
            self._warn(f"{self._path}: of several curve_preferences only one can be enforced here: {only}")

    def _warn(self, remark: str) -> None:
        """Say something once, until something else is to be said."""
        if remark != self._remark:
            self._remark = remark
            log.warning("%s", remark)


def _nobody(users: Mapping[bytes, bytes]) -> bytes:
    """The form of a hash that no password is known to have, of the cost of the others: a guess costs the same time."""
    return b"$2b$" + max(hashed[4:6] for hashed in users.values()) + NOBODY


def _stamp(path: Path) -> Stamp:
    """What changes when a file does."""
    try:
        found = path.stat()
    except OSError as error:
        return (error.errno or 0,)
    return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino, found.st_dev


def _too_many(seconds: float) -> Response:
    return Response(429, b"Too Many Requests\n", {"Retry-After": str(max(1, math.ceil(seconds)))})
