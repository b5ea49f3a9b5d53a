"""What is relevant to what, and what was found: TREC's qrels and runs, and equal labels."""

from __future__ import annotations

import math
import os
import sys
import urllib.parse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from muomni_search.collection import Collection
from muomni_search.errors import InvalidInput, NotFound, UnreadableFile
from muomni_search.evaluation.subjects import labels_of
from muomni_search.ingest.read import Limits, read_file
from muomni_search.ingest.rows import read_rows
from muomni_search.ingest.text import decode_text
from muomni_search.items import Modality
from muomni_search.view import Where

__all__ = ["Qrels", "Run", "check_judged", "read_qrels", "read_run", "same_label"]

# For each query the grade of each key that was judged; 0 and less is not relevant.
Qrels = Mapping[str, Mapping[str, int]]
# For each query the keys that were found, best first.
Run = Mapping[str, list[str]]

# How many names an error shows.
SHOWN = 5


def read_qrels(path: str | Path) -> dict[str, dict[str, int]]:
    """Return the judgements of a TREC file, ``query_id 0 key grade`` a line.

    White space in names is percent-encoded, as in the runs that ``muomni batch`` writes.

    Raises:
        NotFound: There is no such file.
        UnreadableFile: A line is no judgement, or a key is judged twice.
    """
    found: dict[str, dict[str, int]] = {}
    for where, (query, _, key, spelled) in _lines(Path(path), "query_id 0 key relevance"):
        try:
            grade = int(spelled)
        except ValueError:
            raise UnreadableFile(
                f"{where}: the relevance {spelled!r} is no whole number",
                hint="0 for not relevant, 1 or more for relevant",
            ) from None
        own = found.setdefault(query, {})
        if key in own:
            raise UnreadableFile(
                f"{where}: {key!r} is judged for {query!r} a second time", hint="keep one line"
            )
        own[key] = grade
    if not found:
        raise UnreadableFile(f"{path}: holds no judgement", hint="query_id 0 key relevance a line")
    return found


def read_run(path: str | os.PathLike[str]) -> dict[str, list[str]]:
    """Return what a run found: ``.jsonl`` and ``.parquet`` of ``muomni batch``, else TREC's.

    Ranked as trec_eval does: by score in single precision, equal ones from the last key of the
    alphabet to the first. Ranks that are written in the file are not read.

    Raises:
        NotFound: There is no such file.
        UnreadableFile: It is no run.
    """
    path = Path(path)
    is_table = path.suffix.lower() in (".jsonl", ".parquet")
    scores: dict[str, dict[str, float]] = {}
    for where, query, key, score in (_table if is_table else _trec)(path):
        own = scores.setdefault(query, {})
        if key in own:
            raise UnreadableFile(
                f"{where}: {key!r} is found for {query!r} a second time",
                hint="give a run that holds each key once for a query",
            )
        own[key] = score
    if not scores:
        raise UnreadableFile(f"{path}: holds no answer", hint="give what `muomni batch` wrote")
    return {
        query: sorted(own, key=lambda key: (own[key], key.encode()), reverse=True)
        for query, own in scores.items()
    }


def _trec(path: Path) -> Iterator[tuple[str, str, str, float]]:
    for where, (query, _, key, _, spelled, _) in _lines(path, "query_id Q0 key rank score tag"):
        yield where, query, key, _score(spelled, where)


def _table(path: Path) -> Iterator[tuple[str, str, str, float]]:
    if not path.exists():
        raise NotFound(f"{path}: no such file", hint="check its name")
    for number, row in read_rows(path):
        where = f"{path}:{number}"
        if isinstance(row, str):
            raise UnreadableFile(f"{where}: {row}", hint="give what `muomni batch` wrote")
        lacks = [name for name in ("query_id", "key", "score") if row.get(name) is None]
        if lacks:
            raise UnreadableFile(
                f"{where}: lacks {', '.join(lacks)}", hint="give what `muomni batch` wrote"
            )
        yield where, str(row["query_id"]), str(row["key"]), _score(row["score"], where)


def _score(spelled: Any, where: str) -> float:
    try:
        with np.errstate(over="ignore"):
            score = float(np.float32(float(spelled)))
    except (TypeError, ValueError):
        score = math.nan
    if math.isnan(score):
        raise UnreadableFile(f"{where}: the score {spelled!r} is no number", hint="mend the line")
    return score


def _lines(path: Path, form: str) -> Iterator[tuple[str, list[str]]]:
    """Yield the place and the fields of each line that is not blank, names decoded."""
    columns = len(form.split())
    data = read_file(Modality.TEXT, path, Limits(max_bytes=sys.maxsize))
    for number, line in enumerate(decode_text(data, path).splitlines(), start=1):
        fields = line.split()
        if not fields:
            continue
        where = f"{path}:{number}"
        if len(fields) != columns:
            raise UnreadableFile(
                f"{where}: {len(fields)} fields instead of {columns}",
                hint=f"a line reads: {form}; white space in names is %20",
            )
        yield where, [urllib.parse.unquote(field) for field in fields]


def check_judged(collection: Collection, qrels: Qrels, path: Path, *, asks_items: bool) -> None:
    """Refuse judgements of what a collection does not hold.

    Args:
        collection: What is searched.
        qrels: The judgements.
        path: Where they came from, for the error.
        asks_items: Whether the queries are items too.

    Raises:
        NotFound: A key is not there.
    """
    with collection.view() as view:
        there = set(view.snapshot.iter_keys())
    asked = set(qrels) if asks_items else set()
    missing = sorted((asked | {key for own in qrels.values() for key in own}) - there)
    if missing:
        more = f" and {len(missing) - SHOWN} more" if len(missing) > SHOWN else ""
        hint = "give the query file with --queries" if asked & set(missing) else ""
        raise NotFound(
            f"{path} names what is not in {collection.directory}: "
            f"{', '.join(map(repr, missing[:SHOWN]))}{more}",
            hint=hint or "`muomni list` names all keys; white space in names is %20",
        )


def same_label(
    collection: Collection, field: str, where: Where = None
) -> dict[str, dict[str, int]]:
    """Return judgements in which items with the same label are relevant to each other.

    Raises:
        NotFound: No item has such a label.
        InvalidInput: No two items have the same one.
    """
    groups: dict[str, dict[str, int]] = {}
    labels = [pair for own in labels_of(collection, field, where).values() for pair in own.items()]
    for key, label in labels:
        groups.setdefault(label, {})[key] = 1
    if all(len(group) == 1 for group in groups.values()):
        raise InvalidInput(
            f"no two items of {collection.directory} have the same {field!r}, "
            "so none is relevant to another",
            hint="name another field, or give judgements with --qrels",
        )
    return {key: groups[label] for key, label in labels}
