"""The few forms the page is made of, and text from outside made harmless."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timezone
from html import escape

LONGEST_TEXT = 300


def plain(text: str, most: int = LONGEST_TEXT) -> str:
    """Return text from outside fit for an attribute: of bearable length, and nothing in it steers a browser.

    What cannot be printed is replaced: control characters, half characters that no encoding takes, and the marks that
    turn the direction of writing.
    """
    cut = text if len(text) <= most else text[: most - 1] + "…"
    return escape("".join(c if c.isprintable() else "\ufffd" for c in cut))


def words(text: str, most: int = LONGEST_TEXT) -> str:
    """Return text from outside for the page: as `plain`, and its direction of writing stays its own."""
    return f"<bdi>{plain(text, most)}</bdi>"


def moment(wall: float, form: str = "%Y-%m-%d %H:%M:%S UTC") -> str:
    """Return an instant for people, and for machines in its attribute."""
    when = datetime.fromtimestamp(wall, tz=timezone.utc)
    return f'<time datetime="{when:%Y-%m-%dT%H:%M:%SZ}">{when.strftime(form)}</time>'


def tag(text: str, tone: str = "") -> str:
    """Return a word that stands out; `tone` is good, warn, bad or nothing."""
    return f'<span class="tag{" " + tone if tone else ""}">{plain(text)}</span>'


def cell(content: str, label: str = "", style: str = "") -> str:
    """Return a cell of a table; `label` is its column's head, which a phone shows before it."""
    return f'<td role="cell"{_attribute("class", style)}{_attribute("data-label", label)}>{content}</td>'


def head(content: str, title: str = "") -> str:
    """Return the cell that says what a row is about."""
    return f'<th role="rowheader" scope="row"{_attribute("title", title)}>{content}</th>'


def row(cells: Iterable[str], style: str = "") -> str:
    """Return a row of a table."""
    return f'<tr role="row"{_attribute("class", style)}>{"".join(cells)}</tr>'


def table(caption: str, columns: Iterable[tuple[str, str]], rows: Iterable[str], foot: str = "") -> str:
    """Return a table with its caption; `columns` are heads with their style.

    The roles say again what the tags say, since a phone's layout makes browsers forget it.
    """
    heads = "".join(
        f'<th role="columnheader" scope="col"{_attribute("class", style)}>{text}</th>' for text, style in columns
    )
    body, footer = "".join(rows), f'<tfoot role="rowgroup">{foot}</tfoot>' if foot else ""
    return (
        f'<div class="sheet"><table role="table"><caption>{caption}</caption>'
        f'<thead role="rowgroup"><tr role="row">{heads}</tr></thead><tbody role="rowgroup">{body}</tbody>'
        f"{footer}</table></div>"
    )


def section(name: str, content: str) -> str:
    """Return a part of the page under a heading."""
    key = name.lower().replace(",", "").replace(" ", "-")
    return f'<section aria-labelledby="{key}"><h2 id="{key}">{name}</h2>{content}</section>'


def _attribute(name: str, value: str) -> str:
    return f' {name}="{value}"' if value else ""
