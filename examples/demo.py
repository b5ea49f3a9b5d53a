"""Ask the sample corpus questions in all directions, and show the answers on one page.

    make demo        # sets up, indexes, then runs: examples/demo.py .venv/bin/muomni indexes/demo

Runs the commands below, one after another, each in a process of its own, and prints each before its
answer. What they answer, and nothing else, goes into `demo.html` beside the collection's files.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from functools import reduce
from itertools import groupby
from operator import add
from pathlib import Path
from typing import Any, NamedTuple

from muomni_search import Collection, Hit, Modality, Query, Span
from muomni_search.cli.query import query_of
from muomni_search.cli.search import command as search
from muomni_search.query_parts import make_part, parse_part
from muomni_search.report import Section, asked_parts, write_page

QUERIES = Path("examples/queries")
BATCH = QUERIES / "mixed.jsonl"
RECORDS = "-records"  # behind the collection's name: the collection of the table of records


class Step(NamedTuple):
    """A question as a heading and as a command."""

    title: str
    command: str


# {demo} is the collection. What no -c names is asked of it, as MUOMNI_COLLECTION says.
STEPS = [
    Step("Words find everything", 'muomni search "a dog" -k 3'),
    Step("Words → pictures", 'muomni search "a castle" --modality image -k 4'),
    Step("Words → sounds", 'muomni search "boiling water" --modality audio -k 4'),
    Step("Words → words", 'muomni search "music for a wedding" --modality text -k 3'),
    Step(
        "Picture → pictures",
        "muomni search --image examples/queries/penguin.png --modality image -k 3",
    ),
    Step(
        "Picture → sounds",
        "muomni search --image examples/queries/kitten.jpg --modality audio -k 3",
    ),
    Step("Picture → words", "muomni search --id things/fire-truck.png --modality text -k 3"),
    Step(
        "Sound → pictures",
        "muomni search --audio examples/queries/fiddle.ogg --modality image -k 4",
    ),
    Step("Sound → sounds", "muomni search --audio examples/queries/bark.ogg --modality audio -k 3"),
    Step("Sound → words", "muomni search --id things/rain.ogg --modality text -k 3"),
    Step(
        "A sum: this picture − a word + a sound",
        "muomni search --image examples/queries/kitten.jpg --minus text:cat"
        " --plus audio:examples/queries/bark.ogg -k 3",
    ),
    Step(
        "Another: a sports car − sports + a siren",
        "muomni search --id things/sports-car.png --minus text:sports"
        " --plus id:things/fire-truck.flac -k 3",
    ),
    Step(
        "A filter: castles, and what is like them, from before 1700",
        f'muomni search "a castle" --where "kind = \'place\' and year < 1700" -c {{demo}}{RECORDS}'
        " -k 4",
    ),
]
JOB = Step(
    "A batch job: many queries from a file, their answers into a file",
    f"muomni batch {BATCH} -k 3 -o {{demo}}/answers.jsonl --force",
)


class Demo:
    """Runs commands against one collection."""

    def __init__(self, muomni: str, collection: str) -> None:
        self._muomni = muomni
        self._collection = collection

    def run(self) -> None:
        """Ask everything, print the answers, write the page."""
        os.environ["MUOMNI_COLLECTION"] = self._collection
        print(f"\n$ export MUOMNI_COLLECTION={self._collection}")
        sections = [self._search(step) for step in STEPS]
        sections += self._batch()
        page = Path(self._collection, "demo.html")
        write_page(page, "muomni: one space for words, pictures and sounds", sections)
        print(f"\nQuestions and answers on one page: {page.absolute()}")

    def _search(self, step: Step) -> Section:
        command = step.command.format(demo=self._collection)
        hits = [_hit(json.loads(line)) for line in self._answer(step.title, command)]
        for hit in hits:
            _print_hit(hit)
        # The grammar of the command line itself says what the command asks.
        asked = search.make_context("search", shlex.split(command)[2:]).params
        query = query_of(asked["given"])
        with Collection.open(asked["directory"]) as collection:
            return Section(step.title, command, asked_parts(collection, query), hits)

    def _batch(self) -> Iterator[Section]:
        command = JOB.command.format(demo=self._collection)
        print(*self._answer(JOB.title, command), sep="\n")
        questions = [json.loads(line) for line in BATCH.read_text().splitlines()]
        output = Path(self._collection, "answers.jsonl").read_text().splitlines()
        answers = groupby(map(json.loads, output), key=lambda row: row["query_id"])
        with Collection.open(self._collection) as collection:
            for question, (query_id, rows) in zip(questions, answers, strict=True):
                hits = [_hit(row, collection) for row in rows]
                print(f"  {query_id}: {', '.join(hit.key for hit in hits)}")
                parts = asked_parts(collection, _query(question))
                yield Section(f"Batch job: {query_id}", json.dumps(question), parts, hits)

    def _answer(self, title: str, command: str) -> list[str]:
        """Run a command as it is written and return the lines of its answer."""
        print(f"\n# {title}\n$ {command}", flush=True)
        words = [self._muomni, *shlex.split(command)[1:]]
        done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
        return done.stdout.splitlines()


def _hit(row: dict[str, Any], collection: Collection | None = None) -> Hit:
    """Return the hit of a line of an answer; what a batch job leaves out is the item's."""
    if collection is not None:
        (item,) = collection.get([row["key"]])
        rest = {"source": item.source, "text": item.text, "metadata": item.metadata, "span": None}
        row = {**rest, **row}
        del row["query_id"]
    span = Span(**row["span"]) if row["span"] else None
    return Hit(**{**row, "modality": Modality(row["modality"]), "span": span})


def _query(row: dict[str, Any]) -> Query:
    """Return the query of a row of the batch job."""
    parts = [
        make_part(kind, row[kind], folder=QUERIES)
        for kind in ("text", "image", "audio", "id")
        if kind in row
    ]
    parts += [parse_part(part, folder=QUERIES) for part in row.get("plus", [])]
    parts += [-parse_part(part, folder=QUERIES) for part in row.get("minus", [])]
    return reduce(add, parts)


def _print_hit(hit: Hit) -> None:
    facts = ", ".join(str(value) for value in hit.metadata.values())
    told = textwrap.shorten(hit.text or facts, 60, placeholder=" …")
    print(f"  {hit.rank}  {hit.score:5.2f}  {hit.modality:5}  {hit.key:28} {told}".rstrip())


if __name__ == "__main__":
    Demo(*sys.argv[1:3]).run()
