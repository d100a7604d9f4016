"""Tables that give up columns, the least needed first, when a terminal is narrow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.cells import cell_len, set_cell_size
from rich.table import Table
from rich.text import Text

GAP = 2
LEAST_NAME = 8


@dataclass(frozen=True, slots=True)
class Column:
    """A column with all its cells. `rank` 0 stays whatever happens; of the others the highest goes first.

    `most`: cells are cut to so many places.
    """

    title: str
    cells: Sequence[Text]
    rank: int
    is_number: bool = True
    most: int = 40

    @property
    def width(self) -> int:
        """The places that it takes."""
        return min(self.most, max((cell_len(self.title), *(cell.cell_len for cell in self.cells))))


def fold(columns: Sequence[Column], width: int) -> list[Column]:
    """Return the columns that fit into so many places, in their order; one that says nothing is left out."""
    said = [c for c in columns if c.rank == 0 or any(cell.plain for cell in c.cells)]
    kept: list[Column] = []
    left = width + GAP
    for column in sorted(said, key=lambda c: c.rank):
        left -= min(column.width, max(LEAST_NAME, width)) + GAP
        if left < 0 and kept:
            break
        kept.append(column)
    return [c for c in said if c in kept]


def table(columns: Sequence[Column], width: int, ellipsis: str) -> Table:
    """Return a table of one line to the row, as wide as it needs and `width` at most."""
    kept = fold(columns, width)
    drawn = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="bold", collapse_padding=True)
    for column in kept:
        places = min(column.width, width)
        side = "right" if column.is_number else "left"
        drawn.add_column(column.title, justify=side, no_wrap=True, width=places, overflow="crop")  # type: ignore[arg-type]
    for row in zip(*(column.cells for column in kept), strict=True):
        drawn.add_row(*(cut(cell, min(column.width, width), ellipsis) for cell, column in zip(row, kept, strict=True)))
    return drawn


def cut(text: Text, places: int, ellipsis: str) -> Text:
    """Return a text that takes so many places at most, and says where it was cut."""
    if text.cell_len <= places:
        return text
    return Text(set_cell_size(text.plain, max(0, places - cell_len(ellipsis))) + ellipsis, style=text.style)
