"""Why an item answers a query, as JSON that says nothing of where files lie."""

from __future__ import annotations

import base64
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from muomni_search.collection import Collection
from muomni_search.errors import NotFound
from muomni_search.explanation import Explanation, Words, explain
from muomni_search.heat import write_heat
from muomni_search.items import Query

__all__ = ["explained"]


def explained(collection: Collection, query: Query, key: str, scratch: Path) -> dict[str, Any]:
    """Return what in an item carries its similarity to a query.

    Args:
        collection: Where the item is.
        query: What is asked.
        key: The item's.
        scratch: A folder for a picture on its way.

    Raises:
        NotFound: There is no such item, or not all of the model.
        Conflict: Its file is gone or has changed.
    """
    explanation = explain(collection, query, key)
    told = explanation.as_dict()
    del told["source"]
    for part in told["parts"]:
        if part["kind"] in ("image", "audio"):
            part["value"] = Path(part["value"]).name  # as the request called it
    return {**told, "overlay": _overlay(explanation, scratch)}


def _overlay(explanation: Explanation, scratch: Path) -> str | None:
    """Return the picture of an explanation as a data URI; None where there is none."""
    if isinstance(explanation.evidence, Words):
        return None
    with TemporaryDirectory(dir=scratch) as folder, suppress(NotFound):  # matplotlib, for curves
        path = Path(folder, "heat.png")
        write_heat(path, explanation)
        return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"
    return None
