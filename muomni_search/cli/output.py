"""Printing: JSON lines for programs, tables for people, notes and progress on stderr.

Keys, paths and texts come from anywhere. Nothing in them may act on a terminal (escape
sequences, text direction) or pass for Rich's markup, so all of it goes through ``harmless`` and
reaches Rich as ``Text``.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from muomni_search import Collection, Item
    from muomni_search.progress import Progress

# Control characters (also the C1 block, which some terminals obey), line and paragraph
# separators, overrides and isolates of the text direction, and surrogates, which no encoding
# can write.
_HARMFUL = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


GAP = 2  # cells between two columns of a table
LEAST = 6  # cells that a column keeps which gives way


def harmless(text: str) -> str:
    r"""Return ``text`` with every character that could act on a terminal as ``\u....``."""
    return _HARMFUL.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def snippet(text: str) -> str:
    """Return the beginning of a text on one line, more than a table shows of it."""
    return " ".join(text[:1000].split())


def minute(when: str) -> str:
    """Return an ISO 8601 time as a person reads it: ``2031-02-03 04:05``."""
    return when[:16].replace("T", " ")


# ---- stderr --------------------------------------------------------------------------------


def note(line: str) -> None:
    """Say something about the work, on stderr."""
    print(harmless(line), file=sys.stderr)


def complain(line: str) -> None:
    """Say in one line on stderr why the command ends."""
    folded = re.sub(r"\s+", lambda run: " " if set(run[0]) & {"\r", "\n"} else run[0], line)
    note(f"muomni: {folded}")


def agreed(question: str) -> bool:
    """Ask on stderr; the end of the input is no answer, as when a script forgot -f."""
    import click

    try:
        return click.confirm(harmless(question), err=True)
    except click.Abort as abort:
        # Ctrl-C stops.
        if isinstance(abort.__context__, EOFError):
            return False
        raise


@contextmanager
def progress_bar(
    unit: str, estimate: Callable[[], int | None] = lambda: None
) -> Iterator[Progress | None]:
    """Give a progress with rate and time left on stderr, or None where nobody watches.

    Args:
        unit: What a step is, in the plural.
        estimate: Says how many steps there will be where the job itself cannot.
    """
    if not sys.stderr.isatty():
        yield None
        return
    from muomni_search.bar import Bar

    with Bar(unit, estimate) as bar:
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


def print_table(
    names: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    right: Sequence[str] = (),
    cut: Sequence[str] = (),
    wrap: Sequence[str] = (),
) -> None:
    """Print a table on stdout, within the width of the terminal.

    Where the columns that do not give way need more than that, each row becomes a block of lines.

    Args:
        names: The columns.
        rows: A cell a column.
        right: Columns of numbers.
        cut: Columns that give way when it gets narrow, by an ellipsis.
        wrap: Columns that give way by taking several lines.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    console = stdout_console()
    cells = [[Text(harmless(cell)) for cell in row] for row in rows]
    widths = {
        name: max(len(name), *(row[number].cell_len for row in cells))
        for number, name in enumerate(names)
    }
    fixed = sum(widths[name] + GAP for name in names if name not in {*cut, *wrap})
    least = sum(min(widths[name], LEAST) + GAP for name in (*cut, *wrap))
    if cells and fixed + least - GAP > console.width:
        _print_blocks(console, names, cells)
        return
    widths |= _share(console.width - fixed, {name: widths[name] for name in (*cut, *wrap)})
    table = Table(box=box.SIMPLE_HEAD, padding=(0, GAP - 1, 0, 0), pad_edge=False, show_edge=False)
    for name in names:
        table.add_column(
            name,
            width=widths[name],
            justify="right" if name in right else "left",
            no_wrap=name not in wrap,
            overflow="fold" if name in wrap else "ellipsis",
        )
    for row in cells:
        table.add_row(*row)
    console.print(table)


def _print_blocks(console: Console, names: Sequence[str], rows: Sequence[Sequence[Text]]) -> None:
    """Print each row as lines of a name and a value, without the values that are empty."""
    width = max(map(len, names))
    for number, row in enumerate(rows):
        if number:
            console.print()
        for name, value in zip(names, row, strict=True):
            if value.plain:
                console.print(f"{name:<{width}}  ", end="")
                console.print(value, soft_wrap=True)


def _share(available: int, wanted: Mapping[str, int]) -> dict[str, int]:
    """Return widths for columns: what they want, or an equal share of what is left for them."""
    widths = {}
    for left, name in zip(
        range(len(wanted), 0, -1), sorted(wanted, key=wanted.__getitem__), strict=True
    ):
        widths[name] = max(1, min(wanted[name], available // left - GAP))
        available -= widths[name] + GAP
    return widths


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


def note_lacking_fields(collection: Collection, where: str | None) -> None:
    """Say which fields of a filter no item has at all, or has elsewhere."""
    for field, alike in collection.lacking_fields(where).items():
        mend = f"did you mean {' or '.join(alike)}?" if alike else "see: muomni fields"
        # What is called like a column is asked for from the root of the metadata.
        is_column = alike == [f"$.{field}"]
        why = f"{field} is the item's own" if is_column else f"no item has the field {field}"
        note(f"{why}: {mend}")


def print_items(items: Iterable[Item], as_json: bool) -> int:
    """Print items as they come, JSON lines or tables on a terminal; return how many."""
    shown = 0
    if not on_terminal(as_json):
        for item in items:
            print_json(item_as_dict(item))
            shown += 1
        return shown
    rest = iter(items)
    while page := list(islice(rest, TABLE_ROWS)):
        print_table(
            ("key", "what", "content", "added"),
            [
                (
                    item.key,
                    str(item.modality),
                    snippet(item.text or item.source or ""),
                    minute(item.added),
                )
                for item in page
            ],
            cut=("key", "content"),
        )
        shown += len(page)
    note(f"{shown:,} items")
    return shown


def print_record(answer: Mapping[str, Any]) -> None:
    """Print one JSON object for a person: a line a field."""
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2))
    for name, value in answer.items():
        if value is None:
            continue
        told = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        # Only a text may take several lines: elsewhere a line break would pass for a field.
        lines = told.splitlines() if name == "text" else [told]
        grid.add_row(Text(name, style="bold"), Text("\n".join(map(harmless, lines))))
    stdout_console().print(grid)
    sys.stdout.write("\n")
