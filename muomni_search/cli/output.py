"""Printing: JSON lines for programs, tables for people, notes and progress on stderr.

Keys, paths and texts come from anywhere. Nothing in them may act on a terminal (escape
sequences, text direction) or pass for Rich's markup, so all of it goes through ``harmless`` and
reaches Rich as ``Text``.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from muomni_search import Item
    from muomni_search.pipeline import Progress

# Control characters (also the C1 block, which some terminals obey), line and paragraph
# separators, overrides and isolates of the text direction, and surrogates, which no encoding
# can write.
_HARMFUL = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def harmless(text: str) -> str:
    r"""Return ``text`` with every character that could act on a terminal as ``\u....``."""
    return _HARMFUL.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def one_line(text: str) -> str:
    """Return ``text`` on one line, harmless."""
    return harmless(" ".join(text.split()))


# ---- stderr --------------------------------------------------------------------------------


def note(line: str) -> None:
    """Say something about the work, on stderr."""
    print(harmless(line), file=sys.stderr)


def complain(line: str) -> None:
    """Say in one line on stderr why the command ends."""
    folded = re.sub(r"\s*[\r\n]\s*", " ", line)
    note(f"muomni: {folded}")


@contextmanager
def progress_bar(unit: str) -> Iterator[Progress | None]:
    """Give a progress with rate and time left on stderr, or None where nobody watches."""
    if not sys.stderr.isatty():
        yield None
        return
    from muomni_search.cli.progress import Bar

    with Bar(unit) as bar:
        yield bar


# ---- stdout --------------------------------------------------------------------------------


def on_terminal(as_json: bool) -> bool:
    """Whether answers are for a person: stdout is a terminal and --json was not given."""
    return sys.stdout.isatty() and not as_json


def print_json(answer: Mapping[str, Any]) -> None:
    """Print one JSON object as one line."""
    # The same characters as in tables; inside a JSON string the escape means the same character.
    sys.stdout.write(harmless(json.dumps(answer, ensure_ascii=not _is_utf8())) + "\n")


def _is_utf8() -> bool:
    return (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"


def columns(*names: str, right: Sequence[str] = (), cut: Sequence[str] = ()) -> Table:
    """Return an empty table.

    Args:
        names: The columns.
        right: Those that hold numbers.
        cut: Those that give way on a narrow terminal: shortened, never wrapped.
    """
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for name in names:
        table.add_column(
            name,
            justify="right" if name in right else "left",
            no_wrap=name in right or name in cut,
            overflow="ellipsis" if name in cut else "fold",
        )
    return table


def print_table(table: Table, rows: Iterable[Sequence[str]]) -> None:
    """Print ``table`` with ``rows`` on stdout."""
    from rich.text import Text

    for row in rows:
        table.add_row(*(Text(harmless(cell)) for cell in row))
    stdout_console().print(table)


def stdout_console() -> Console:
    """Return a console that interprets nothing in what it prints."""
    from rich.console import Console

    return Console(file=sys.stdout, markup=False, emoji=False, highlight=False)


def size(n_bytes: int) -> str:
    """Return a number of bytes as a person reads it: ``1.5 MB``."""
    number = float(n_bytes)
    for unit in ("bytes", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.0f} {unit}" if unit == "bytes" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} TB"


# ---- items ---------------------------------------------------------------------------------

# A terminal gets tables of so many rows: their widths are known without holding the whole list.
TABLE_ROWS = 500


def item_as_dict(item: Item) -> dict[str, Any]:
    """Return an item as the JSON object that `list` and `get` print."""
    answer = {
        "key": item.key,
        "modality": str(item.modality),
        "source": item.source,
        "text": item.text,
        "metadata": item.metadata,
        "segments": item.segments,
        "added": item.added,
    }
    return answer if item.vector is None else {**answer, "vector": item.vector.tolist()}


def print_items(items: Iterable[Item], as_json: bool) -> None:
    """Print items as they come: JSON lines, or tables on a terminal."""
    if not on_terminal(as_json):
        for item in items:
            print_json(item_as_dict(item))
        return
    rest = iter(items)
    shown = 0
    while page := list(islice(rest, TABLE_ROWS)):
        print_table(
            columns("key", "what", "content", "added", cut=("key", "content")),
            (
                (item.key, str(item.modality), one_line(item.text or item.source or ""), item.added)
                for item in page
            ),
        )
        shown += len(page)
    note(f"{shown:,} items")


def print_record(answer: Mapping[str, Any]) -> None:
    """Print one JSON object for a person: a line a field."""
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2))
    for name, value in answer.items():
        told = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        # Only a text may take several lines: elsewhere a line break would pass for a field.
        lines = told.splitlines() if name == "text" else [told]
        grid.add_row(Text(name, style="bold"), Text("\n".join(map(harmless, lines))))
    stdout_console().print(grid)
    sys.stdout.write("\n")
