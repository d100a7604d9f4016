"""One request and its answer on the wire: h11 knows the grammar, this knows how much of it we take."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from urllib.parse import parse_qs, urlsplit

import h11

MOST_FIELDS = 100


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked, as far as we care; `peer` is the address it came from."""

    method: str
    path: str
    query: Mapping[str, list[str]]
    headers: Mapping[str, str] = field(repr=False)  # a password may be among them
    peer: str = ""


@dataclass(frozen=True, slots=True)
class Response:
    """What is answered."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


async def take(connection: h11.Connection, read: Callable[[], Awaitable[bytes]], most_body: int) -> Request | None:
    """Return the next complete request; None when the other side has left.

    Raise h11.RemoteProtocolError, with the status to answer, for what is malformed or too large.
    """
    head: h11.Request | None = None
    body = 0
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(await read())
        elif isinstance(event, h11.Request):
            head = event
            if connection.they_are_waiting_for_100_continue:
                return _parsed(head)  # no answer of ours depends on a body
        elif isinstance(event, h11.Data):
            body += len(event.data)
            if body > most_body:
                raise h11.RemoteProtocolError("too large a body", error_status_hint=413)
        elif isinstance(event, h11.EndOfMessage) and head is not None:
            return _parsed(head)
        else:
            return None


def _parsed(head: h11.Request) -> Request:
    target = head.target.decode("ascii", "replace")
    try:
        path, text = _place(target)
        query = parse_qs(text, max_num_fields=MOST_FIELDS)
    except ValueError as error:
        raise h11.RemoteProtocolError("bad target", error_status_hint=400) from error
    headers: dict[str, str] = {}
    for raw, value in head.headers:  # a list may come in several lines (RFC 9110, 5.3)
        name = raw.decode("ascii", "replace")
        headers[name] = ", ".join(filter(None, (headers.get(name), value.decode("latin-1"))))
    if "content-length" in headers and "transfer-encoding" in headers:  # whose end another would see elsewhere
        raise h11.RemoteProtocolError("two lengths", error_status_hint=400)
    return Request(head.method.decode("ascii", "replace"), path, query, headers)


def _place(target: str) -> tuple[str, str]:
    """Path and query of a target; raise ValueError for what names no place of ours."""
    if target.startswith("/"):  # to the letter: what looks like another host or a fragment is a path that we have not
        path, _, query = target.partition("?")
        return path, query
    parts = urlsplit(target)  # as a proxy is asked (RFC 9112, 3.2.2)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise ValueError(target)
    return parts.path or "/", parts.query


def written(connection: h11.Connection, request: Request | None, response: Response) -> list[bytes]:
    """Return the pieces to send, in order; the body is not copied. Nothing, when there is nobody to answer.

    `request` None: it was malformed, and where the next would begin nobody knows.
    """
    if connection.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
        return []
    headers = {"Content-Type": "text/plain; charset=utf-8", "X-Content-Type-Options": "nosniff", **response.headers}
    headers["Content-Length"] = str(len(response.body))
    if request is None:
        headers["Connection"] = "close"
    phrase = HTTPStatus(response.status).phrase
    head = h11.Response(status_code=response.status, reason=phrase, headers=list(headers.items()))
    pieces = [connection.send(head) or b""]
    if request is None or request.method != "HEAD":
        pieces += connection.send_with_data_passthrough(h11.Data(data=response.body)) or []
    pieces.append(connection.send(h11.EndOfMessage()) or b"")
    return [bytes(piece) for piece in pieces if piece]


def keeps(connection: h11.Connection) -> bool:
    """Whether the connection may take another request."""
    return connection.our_state is h11.DONE and connection.their_state is h11.DONE
