"""`muomni align`: teach a model pairs of your own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from muomni_search.cli.add import LISTED_FAILURES
from muomni_search.cli.options import (
    DIRECTORY,
    INPUT_FILE,
    MODALITIES,
    Command,
    FiniteNumber,
    count_option,
    json_option,
)
from muomni_search.cli.output import note, on_terminal, print_json, print_table, progress_bar

if TYPE_CHECKING:
    from muomni_search import Alignment


def _encoders(
    context: click.Context, parameter: click.Parameter, given: tuple[str, ...]
) -> dict[str, str]:
    found: dict[str, str] = {}
    for one in given:
        modality, equals, name = one.partition("=")
        if modality not in MODALITIES or not equals or not name:
            raise click.BadParameter(
                f"{one!r} is not {'|'.join(MODALITIES)}=ENCODER", ctx=context, param=parameter
            )
        if modality in found:
            raise click.BadParameter(f"{modality} is given twice", ctx=context, param=parameter)
        found[modality] = name
    return found


@click.command(
    "align",
    cls=Command,
    example="""\
muomni align pairs.csv models/birds
muomni align keys.csv models/birds -c indexes/birds --refine
muomni align pairs.csv models/clip --encoder image=clip-vit-base-patch32""",
)
@click.argument("pairs", metavar="PAIRS", type=INPUT_FILE)
@click.argument("output", metavar="OUT", type=DIRECTORY)
@click.option(
    "--model", metavar="NAME|PATH", help="The model to start from: base, or the collection's."
)
@click.option(
    "-c",
    "--collection",
    "directory",
    type=DIRECTORY,
    envvar="MUOMNI_COLLECTION",
    show_envvar=True,
    help="A collection whose keys are paired, or whose vectors show the drift.",
)
@click.option(
    "--encoder",
    "encoders",
    metavar="MODALITY=ENCODER",
    multiple=True,
    callback=_encoders,
    help="Another encoder of a modality: a CLIP, CLAP or sentence-transformers folder, a model, "
    "or a registered function.",
)
@click.option(
    "--keep", metavar="TABLE", type=INPUT_FILE, help="Pairs to see what becomes of; not learned."
)
@click.option("--refine", is_flag=True, help="Go on by contrastive learning; takes a minute or so.")
@click.option(
    "--anchor",
    type=click.Choice(MODALITIES),
    help="The modality that stays as it is: text, or else the commonest.",
)
@click.option(
    "--pull",
    metavar="X",
    type=FiniteNumber(above=0),
    help="How strongly to hold the maps to what was there, 0.1 to 300; else cross-validated.",
)
@count_option("--folds", least=2, default=5, help="Parts of the pairs, each held out once.")
@count_option(
    "--seed", least=0, default=0, help="What decides on the folds, and on the batches of --refine."
)
@click.option("-f", "--force", is_flag=True, help="Replace an aligned model in OUT.")
@json_option
def command(
    pairs: Path,
    output: Path,
    model: str | None,
    directory: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Learn pairs of your own, and write a model that knows them.

    PAIRS is .jsonl, .csv or .parquet: two or three of the columns text, image and audio in a row,
    files relative to the table; or key_a and key_b, items of the collection. OUT is the new
    model's directory.

    Each modality but the anchor gets a linear map, held to what was there as strongly as does
    best on pairs that were held out. The report shows how well these find each other before and
    after. What gains nothing that is sure stays as it was; when nothing does, no model is written.

    With --encoder a modality is read by another encoder, which is first brought to where the model
    has the same contents, then to the pairs; rows with that modality alone help, too.

    Then `muomni reembed --model OUT` brings a collection to it.
    """
    from muomni_search import Collection, InvalidInput, align

    with progress_bar("contents") as progress:
        if directory is None:
            done = align(pairs, output, model=model or "base", progress=progress, **options)
        else:
            with Collection.open(directory, model=model) as collection:
                done = align(pairs, output, collection=collection, progress=progress, **options)
    if on_terminal(as_json):
        _print_table(done)
    else:
        print_json(done.as_dict())
    for line in done.learned.notes:
        note(f"note: {line}")
    for problem in done.problems[:LISTED_FAILURES]:
        note(f"failed: {problem.error}: {problem.hint}")
    if len(done.problems) > LISTED_FAILURES:
        note(f"… and {len(done.problems) - LISTED_FAILURES:,} more")
    if done.model is None:
        raise InvalidInput(
            f"nothing is gained from these {done.pairs:,} pairs, so no model was written",
            hint="give more of them, or --pull 30 to have it all the same",
        )


def _print_table(done: Alignment) -> None:
    rows = []
    for name, found in (("held out", done.learned.retrieval), ("kept", done.kept)):
        for one in found:
            interval = one["mrr_gain_interval"]
            rows.append(
                (
                    name,
                    f"{one['from']} → {one['to']}",
                    f"{one['queries']:,}",
                    *(
                        f"{_figure(one['before'], figure)} → {_figure(one['after'], figure)}"
                        for figure in ("success@1", "success@10", "mrr")
                    ),
                    "" if interval is None else f"{interval[0]:+.2f} … {interval[1]:+.2f}",
                )
            )
    print_table(
        ("pairs", "direction", "n", "S@1", "S@10", "MRR", "MRR gain, 95 %"),
        rows,
        right=("n",),
        wrap=("pairs", "direction"),
    )
    for modality, source in done.sources.items():
        agreement = done.learned.agreement.get(str(modality))
        told = (
            "" if agreement is None else f", agrees with the model at a cosine of {agreement:.2f}"
        )
        click.echo(f"{modality} is read by {source.name} ({source.dim} dimensions{told})")
    moved = ", ".join(f"{modality} {cosine:.2f}" for modality, cosine in done.drift.items())
    if moved:
        click.echo(f"old and new vectors of {done.drift_of}, mean cosine: {moved}")
    if done.model is not None:
        click.echo(f"{done.model} written from {done.pairs:,} pairs ({done.seconds:.1f} s)")


def _figure(figures: dict[str, Any] | None, name: str) -> str:
    return "–" if figures is None else f"{figures[name]:.2f}"
