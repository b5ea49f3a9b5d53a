"""`muomni explain`: what makes an item answer a query."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from muomni_search.cli.options import OUTPUT_FILE, collection_option, json_option, model_option
from muomni_search.cli.output import (
    harmless,
    note,
    on_terminal,
    print_json,
    print_table,
    snippet,
    stdout_console,
)
from muomni_search.cli.query import QueryCommand, query_of, query_options

if TYPE_CHECKING:
    from rich.text import Text

    from muomni_search.explanation import Curve, Explanation, Grid, Word

BAR = 24  # cells of the longest bar
WINDOWS = 40  # lines of a curve; of a longer one, the best windows


@click.command(
    "explain",
    cls=QueryCommand,
    example="""\
muomni explain "a dog" animals/dog.jpg -o why.png
muomni explain --image kitten.jpg --minus text:cat animals/dog.ogg -o why.png
muomni explain "frozen water" notes/ice.txt""",
)
@click.argument("arguments", metavar="[TEXT] KEY", nargs=-1)
@query_options("--text")
@click.option(
    "-o",
    "--output",
    type=OUTPUT_FILE,
    help="Also write a PNG: the picture under its heat, or the curve of the sound.",
)
@click.option(
    "--patches",
    is_flag=True,
    help="Of a picture, the cosines of the model's own patches: quick, and less to be trusted.",
)
@json_option
@model_option
@collection_option
def command(
    arguments: Sequence[str],
    given: Sequence[tuple[str, Any]],
    spelled: str,  # noqa: ARG001  what QueryCommand gives
    output: Path | None,
    patches: bool,
    as_json: bool,
    model: str | None,
    directory: Path,
) -> None:
    """Show what in an item carries its similarity to a query.

    The query is given as with `muomni search`; KEY is any item, found or not. Of a picture it
    shows how much of the cosine is lost where a square is covered; of a text, where a word is
    left out; of a sound, the cosine of each short window. Of a long item it is the segment that
    made it a hit. Beside that, what each part of the query adds, and each of its words.
    """
    if not 1 <= len(arguments) <= 2:
        raise click.UsageError("give the KEY of one item, and before it the words to explain it by")
    *words, key = arguments
    from muomni_search import Collection, explain

    query = query_of([*(("text", one) for one in words), *given])
    with Collection.open(directory, model=model) as collection:
        if output is not None:
            collection.check_output(output)
        explanation = explain(collection, query, key, patches=patches)
        if output is not None:
            from muomni_search.heat import write_heat

            write_heat(output, explanation)
            note(f"picture: {output}")
    if on_terminal(as_json):
        _print(explanation)
    else:
        print_json(explanation.as_dict())


def _print(explanation: Explanation) -> None:
    from muomni_search.explanation import Curve, Grid

    hit = explanation.hit
    where = "" if hit.span is None else f", {hit.span.start}–{hit.span.end} {hit.span.unit}"
    _line(f"{hit.key} ({hit.modality}{where}): score {hit.score:.2f}, cosine {hit.cosine:.3f}")
    if len(explanation.parts) > 1:
        _print_bars(
            "part of the query",
            [
                (f"{share.part.weight:g} × {share.part.kind}:{_value(share.part)}", share.share)
                for share in explanation.parts
            ],
        )
    if len(explanation.query_words) > 1:
        _print_words("word of the query", explanation.query_words)
    evidence = explanation.evidence
    if isinstance(evidence, Grid):
        _print_grid(evidence)
    elif isinstance(evidence, Curve):
        _print_curve(evidence)
    else:
        _print_words("word", evidence.words)


def _line(text: str) -> None:
    print(harmless(text))


def _value(part: Any) -> str:
    return "…" if part.kind == "vector" else snippet(str(part.value))


def _print_words(name: str, words: Sequence[Word]) -> None:
    """Print a text with its words as bright as they count, and the ones that count most."""
    from rich.text import Text

    if len(words) > 1:
        most = max(max(word.share for word in words), 1e-3)
        line = Text()
        for word in words:
            line.append(harmless(word.text), _shade(word.share / most))
            line.append(" ")
        stdout_console().print(line)
    best = sorted(words, key=lambda word: -abs(word.share))[:10]
    _print_bars(name, [(word.text, word.share) for word in best])


def _print_bars(name: str, rows: Sequence[tuple[str, float]]) -> None:
    most = max(max(abs(value) for _, value in rows), 1e-3)
    print_table(
        (name, "share", ""),
        [(what, f"{value:+.3f}", "█" * max(0, round(BAR * value / most))) for what, value in rows],
        right=("share",),
        cut=(name,),
    )


def _print_grid(grid: Grid) -> None:
    from rich.text import Text

    lines: list[Text] = []
    for row in grid.strengths():
        line = Text()
        for value in row:
            line.append("  ", f"on {_colour(value)}")
        lines.append(line)
    stdout_console().print(Text("\n").join(lines))
    row, column = divmod(int(grid.values.argmax()), grid.values.shape[1])
    rows, columns = grid.values.shape
    _line(
        f"the most, {grid.values.max():+.3f}, in row {row + 1} of {rows}, "
        f"column {column + 1} of {columns}"
    )


def _print_curve(curve: Curve) -> None:
    rows = list(zip(curve.windows.tolist(), curve.cosines.tolist(), strict=True))
    if len(rows) > WINDOWS:
        kept = sorted(rows, key=lambda row: -row[1])[:WINDOWS]
        rows = sorted(kept)
    most = max(max(value for _, value in rows), 1e-3)
    best = [curve.best.start, curve.best.end]
    print_table(
        ("seconds", "cosine", ""),
        [
            (
                f"{window[0] / 1000:.2f}–{window[1] / 1000:.2f}",
                f"{value:.3f}",
                "█" * max(0, round(BAR * value / most)) + (" best" if window == best else ""),
            )
            for window, value in rows
        ],
        right=("seconds", "cosine"),
    )


def _shade(strength: float) -> str:
    if strength < 0.2:
        return ""
    ink = "black" if strength > 0.6 else "white"
    return f"{ink} on {_colour(strength)}"


def _colour(strength: float) -> str:
    import numpy as np

    from muomni_search.heat import colours

    red, green, blue = colours(np.clip(strength, 0, 1)).tolist()
    return f"rgb({red},{green},{blue})"
