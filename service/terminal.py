"""What a command says: tables and lines for people, or one JSON document for programs and nothing else on
standard output.

Progress goes to standard error, as a bar where that is a terminal and as a line per change where it is not.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from pydantic import BaseModel
from pydantic_core import to_jsonable_python
from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

Advance = Callable[[float, str], None]  # (share done in 0..1, what is going on)
_NUMBER = re.compile(r"|–|[-+]?[0-9][0-9.,]*%?")
_PLAIN_WIDTH = 160  # of output that is not a terminal: tables must not be cut at 80


class Terminal:
    """Where one command speaks. `as_json`: people's lines go to standard error, `document` alone to standard
    output.
    """

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json
        self._out = _console(to_stderr=as_json)
        self._err = _console(to_stderr=True)

    def say(self, text: RenderableType = "") -> None:
        """A line, or a table, for people. Lines are never broken: one may be a token to be copied."""
        self._out.print(text, soft_wrap=isinstance(text, str))

    def document(self, value: BaseModel | Mapping[str, Any] | Sequence[BaseModel]) -> None:
        """The result for programs; says nothing unless JSON was asked for."""
        if self.as_json:
            print(json.dumps(to_jsonable_python(value), ensure_ascii=False, indent=2), flush=True)

    def result(
        self, value: BaseModel | Mapping[str, Any] | Sequence[BaseModel], *shown: RenderableType
    ) -> None:
        """The result in the form that was asked for: JSON, or what is shown to people."""
        if self.as_json:
            self.document(value)
            return
        for renderable in shown:
            self.say(renderable)

    @contextmanager
    def progress(self, label: str) -> Iterator[Advance]:
        """Show how far a wait has come."""
        if self._err.is_terminal:
            with _bar(self._err) as bar:
                task = bar.add_task(label, total=1.0, note="")

                def advance(share: float, note: str = "") -> None:
                    bar.update(task, completed=share, note=note)

                yield advance
        else:
            yield _lines(self._err, label)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """A table whose columns that hold only numbers are right-aligned."""
    result = Table(title=title, title_justify="left", title_style="bold")
    for index, column in enumerate(columns):
        cells = [row[index] for row in rows]
        is_numeric = bool(cells) and all(_is_number(cell) for cell in cells)
        result.add_column(column, justify="right" if is_numeric else "left", overflow="fold")
    for row in rows:
        result.add_row(*row)
    return result


def _console(*, to_stderr: bool) -> Console:
    console = Console(stderr=to_stderr, highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = _PLAIN_WIDTH
    return console


def _bar(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}", style="dim"),
        console=console,
    )


def _lines(console: Console, label: str) -> Advance:
    last: list[tuple[int, str]] = []

    def advance(share: float, note: str = "") -> None:
        current = (int(share * 100), note)
        if not last or last[-1] != current:
            last[:] = [current]
            console.print(f"{label} {current[0]:3d} % {note}".rstrip(), soft_wrap=True)

    return advance


def _is_number(cell: str) -> bool:
    return _NUMBER.fullmatch(cell) is not None
