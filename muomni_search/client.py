"""A collection on a server, with the verbs of one on the disk.

    from muomni_search.client import Client

    with Client("http://127.0.0.1:8765").collection("birds") as birds:
        hits = birds.query(Query.text("a robin at dawn"), k=10, modality="audio")

What is returned and what is raised is of the same classes; a server does not say where its files
lie, so ``source`` is None. Pictures and sounds of a query, and files to add, are read here and
sent.
"""

from __future__ import annotations

import json
import time
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

import httpx
import numpy as np

from muomni_search.closing import Closing
from muomni_search.errors import InvalidInput, MuomniError, NotFound, UnreadableFile
from muomni_search.hits import Hits
from muomni_search.ingest.manifest import Corpus, Skipped, read_records
from muomni_search.ingest.rows import ArrowStream
from muomni_search.items import Hit, Item, Modality, Part, Problem, Query, Record, Span
from muomni_search.pipeline import Report
from muomni_search.store.records import Failure
from muomni_search.view import Modalities, check_page, modalities_of, several
from muomni_search.wire import KINDS, TYPE

__all__ = ["Client", "RemoteCollection"]

Where = str | Mapping[str, Any] | None

# What goes in one request: a server commits each by itself.
LINES_AT_ONCE = 10_000
LINE_BYTES_AT_ONCE = 32_000_000
FILES_AT_ONCE = 64
FILE_BYTES_AT_ONCE = 64_000_000
PAGE_ITEMS = 1_000
# Adding encodes what it is given, which takes as long as it takes.
ANSWER_SECONDS = 3_600.0
# How many queries of a list are under way: a server encodes together what comes together.
QUERIES_AT_ONCE = 8
# Before a server is asked again that has too much to do.
LEAST_WAIT = 0.1


class Client(Closing):
    """A connection to a server; close it, or use it as a context manager.

    Args:
        url: Where the server is: ``http://127.0.0.1:8765``.
        token: What it wants to be shown, if it wants something.
        timeout: Seconds to wait for a connection, and for a server that has too many requests: it
            is asked again when it says so.

    Raises:
        InvalidInput: This is no address.
    """

    def __init__(self, url: str, *, token: str | None = None, timeout: float = 60.0) -> None:
        headers = {} if token is None else {b"Authorization": b"Bearer " + token.encode()}
        limits = httpx.Timeout(timeout, read=ANSWER_SECONDS)
        self._timeout = timeout
        try:
            self._http = httpx.Client(base_url=url.rstrip("/"), headers=headers, timeout=limits)
        except httpx.InvalidURL as error:
            raise InvalidInput(
                f"{url} is no address: {error}", hint="give one as http://127.0.0.1:8765"
            ) from error
        # Of a client that nobody holds any more; see ``RemoteCollection.close``.
        self._close = weakref.finalize(self, self._http.close)

    def collections(self) -> list[dict[str, Any]]:
        """Return name, model and counts of each collection."""
        found: list[dict[str, Any]] = self.ask("GET", "/v1/collections").json()["collections"]
        return found

    def collection(self, name: str) -> RemoteCollection:
        """Return a collection; that there is one shows when it is asked."""
        return RemoteCollection(self, name)

    def create(self, name: str, *, model: str = "base") -> RemoteCollection:
        """Make an empty collection.

        Raises:
            Conflict: There is one already.
        """
        self.ask("POST", "/v1/collections", **_json({"name": name, "model": model}))
        return self.collection(name)

    def ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Return what the server answers; raise what it complains of.

        Raises:
            MuomniError: The problem that it tells, as the class that a collection on the disk
                raises; or it cannot be reached.
        """
        until = time.monotonic() + self._timeout
        while True:
            response = self._send(method, path, **options)
            wait = _seconds_to_wait(response)
            if wait is None or time.monotonic() + wait > until:
                break
            time.sleep(wait)
        if response.is_error:
            raise _error_of(response)
        return response

    def _send(self, method: str, path: str, **options: Any) -> httpx.Response:
        try:
            return self._http.request(method, path, **options)
        except httpx.HTTPError as error:
            raise MuomniError(
                f"{self._http.base_url}: {error or type(error).__name__}",
                hint="is a server running there? `muomni serve` starts one",
            ) from error
        except RuntimeError as error:
            if not self._http.is_closed:
                raise
            raise MuomniError(
                f"the client of {self._http.base_url} is closed", hint="make another one"
            ) from error

    def close(self) -> None:
        """Close the connection."""
        self._close()


class RemoteCollection(Closing):
    """A collection on a server: ``Collection``'s verbs, asked over HTTP.

    Args:
        client: The connection.
        name: What the server calls the collection.
    """

    def __init__(self, client: Client, name: str) -> None:
        self._held: Client | None = client
        self.name = name

    @property
    def _client(self) -> Client:
        if self._held is None:
            raise MuomniError(f"{self.name} is closed", hint="ask a client for it again")
        return self._held

    # ---- writing -------------------------------------------------------------------------

    def add(
        self,
        corpus: Corpus | Iterable[Record | Problem | Skipped | Mapping[str, Any]] | ArrowStream,
    ) -> Report:
        """Bring the collection up to date with a corpus; see ``Collection.add``.

        Files are sent; what is not changed is encoded no more than it would be on the disk.

        Raises:
            InvalidInput: Something in it is no record.
        """
        report = Report()
        lines = _Batch(LINES_AT_ONCE, LINE_BYTES_AT_ONCE)
        files = _Batch(FILES_AT_ONCE, FILE_BYTES_AT_ONCE)
        for entry in corpus if isinstance(corpus, Corpus) else read_records(corpus):
            if isinstance(entry, Problem):
                report.failed += 1
                report.problems.append(entry)
            elif not isinstance(entry, Record):
                report.skipped += 1
            elif entry.path is not None:
                if files.is_full(_size_of(entry.path)):
                    self._send_files(files.take(), report)
                files.put(entry, _size_of(entry.path))
            else:
                line = _line_of(entry)
                if lines.is_full(len(line)):
                    self._send_lines(lines.take(), report)
                lines.put(line, len(line))
        self._send_lines(lines.take(), report)
        self._send_files(files.take(), report)
        return report

    def delete(self, keys: str | Sequence[str] = (), *, where: Where = None) -> int:
        """Delete items by key (one or several) or by filter; return how many.

        Raises:
            InvalidInput: Keys and a filter at once; nothing was deleted.
            NotFound: A key is not there; nothing was deleted.
        """
        named = several(keys)
        if not named and where is None:
            return 0
        told = self._ask("POST", "delete", **_json({"keys": named, "where": where}))
        return int(told["deleted"])

    # ---- reading -------------------------------------------------------------------------

    def get(self, keys: str | Sequence[str], *, vectors: bool = False) -> list[Item]:
        """Return the items of ``keys`` (one or several), in that order; with vectors on demand.

        Raises:
            NotFound: A key is not there.
        """
        return [
            _item_of(self._ask("GET", "item", params={"key": key, "vectors": vectors}))
            for key in several(keys)
        ]

    def count(self, *, where: Where = None) -> dict[Modality, int]:
        """Return how many items of each modality a filter lets through."""
        asked = {} if where is None else {"where": _spelled(where)}
        counts = self._ask("GET", "count", params=asked)
        return {one: counts[str(one)] for one in Modality}

    def items(
        self,
        *,
        where: Where = None,
        modality: Modalities = None,
        limit: int | None = None,
        after: str | None = None,
    ) -> Iterator[Item]:
        """Yield items by key; with ``after`` those that come behind this key."""
        check_page(limit, after)
        params: dict[str, Any] = {
            "modality": _names(modality) or [],
            "after": after,
            "where": _spelled(where),
        }
        left = limit
        while left is None or left > 0:
            params["limit"] = PAGE_ITEMS if left is None else min(left, PAGE_ITEMS)
            asked = {name: value for name, value in params.items() if value is not None}
            page = self._ask("GET", "items", params=asked)
            yield from map(_item_of, page["items"])
            params["after"] = page["next"]
            if page["next"] is None:
                return
            left = None if left is None else left - len(page["items"])

    def query(
        self,
        query: Query | str,
        k: int = 10,
        *,
        offset: int = 0,
        modality: Modalities = None,
        where: Where = None,
        min_score: float | Literal["auto"] | None = None,
        exact: bool = False,
        segments: bool = False,
        include_self: bool = False,
    ) -> Hits:
        """Return the best hits for a query; see ``Collection.query``."""
        asked = Query.text(query) if isinstance(query, str) else query
        if not isinstance(asked, Query) or not asked.parts:
            raise InvalidInput(f"{query!r} is no query", hint="give words, or a Query")
        body = {
            "parts": [self._part(part) for part in asked.parts],
            "k": k,
            "offset": offset,
            "modality": _names(modality),
            "where": where,
            "min_score": min_score,
            "exact": exact,
            "segments": segments,
            "include_self": include_self,
        }
        return Hits(map(_hit_of, self._ask("POST", "search", **_json(body))["hits"]))

    def query_many(self, queries: Sequence[Query | str], k: int = 10, **options: Any) -> list[Hits]:
        """Answer several queries, some at once; see ``query``."""
        if isinstance(queries, str):
            raise InvalidInput("a text is no list of queries", hint="ask it with query")
        with ThreadPoolExecutor(QUERIES_AT_ONCE, "muomni-query") as threads:
            return list(threads.map(lambda query: self.query(query, k, **options), queries))

    def lacking_fields(self, where: Where) -> dict[str, list[str]]:
        """Return the metadata fields of a filter that no item has, and to each those spelled alike.

        Of a filter that lets nothing through; see ``Collection.lacking_fields``.
        """
        if where is None:
            return {}
        asked = {"where": _spelled(where)}
        found: dict[str, list[str]] = self._ask("GET", "count", params=asked)["lacking_fields"]
        return found

    def fields(self) -> dict[str, dict[str, Any]]:
        """Return the metadata fields as filters spell them, with their commonest values."""
        found: dict[str, dict[str, Any]] = self._ask("GET", "fields")["fields"]
        return found

    def failures(self) -> list[Failure]:
        """Return the inputs that could not be used, with cause and mend."""
        return [
            Failure(
                one["key"] or "", one["key"], one["error"], one["hint"], one["attempts"], "",
                one["last"],
            )
            for one in self._ask("GET", "failures")["failures"]
        ]  # fmt: skip

    def stats(self) -> dict[str, Any]:
        """Return counts, sizes, the model and the index, for each modality and in sum."""
        told: dict[str, Any] = self._ask("GET", "")
        told.pop("name")
        return told

    def close(self) -> None:
        """Let go of the client that it came from, which closes when nobody else holds it."""
        self._held = None

    # ---- what goes over the wire ---------------------------------------------------------

    def _ask(self, method: str, what: str, **options: Any) -> Any:
        path = f"/v1/collections/{quote(self.name, safe='')}/{what}".rstrip("/")
        return self._client.ask(method, path, **options).json()

    def _part(self, part: Part) -> dict[str, Any]:
        told: dict[str, Any] = {"kind": part.kind, "weight": part.weight}
        if part.kind == "vector":
            told["vector"] = np.asarray(part.value, np.float64).tolist()
        elif part.kind in ("image", "audio"):
            with _opened(Path(part.value)) as file:
                sent = {"file": (Path(part.value).name, file)}
                told["upload"] = self._client.ask("POST", "/v1/uploads", files=sent).json()[
                    "upload"
                ]
        else:
            told["value"] = part.value
        return told

    def _send_lines(self, lines: Sequence[str], report: Report) -> None:
        if lines:
            body = "\n".join(lines).encode(errors="replace")
            headers = {"Content-Type": "application/x-ndjson"}
            _count(report, self._ask("POST", "items", content=body, headers=headers))

    def _send_files(self, records: Sequence[Record], report: Report) -> None:
        metadata: dict[str, Any] = {}
        sent, names = [], []
        with ExitStack() as files:
            for one in records:
                try:
                    file = files.enter_context(_opened(Path(str(one.path))))
                    sent.append(("files", (one.key, file)))
                    names.append(one.key)
                    if one.metadata:
                        metadata[one.key] = dict(one.metadata)
                except MuomniError as error:
                    report.failed += 1
                    report.problems.append(Problem(one.origin, error.what, error.hint, one.key))
            if sent:
                data = {"metadata": json.dumps(metadata), "names": json.dumps(names)}
                _count(report, self._ask("POST", "items", files=sent, data=data))


class _Batch:
    """What goes into one request."""

    def __init__(self, most: int, most_bytes: int) -> None:
        self._most = most
        self._most_bytes = most_bytes
        self._entries: list[Any] = []
        self._bytes = 0

    def is_full(self, size: int) -> bool:
        """Whether something of so many bytes belongs into the next one."""
        is_large = self._bytes + size > self._most_bytes
        return bool(self._entries) and (len(self._entries) >= self._most or is_large)

    def put(self, entry: Any, size: int) -> None:
        self._entries.append(entry)
        self._bytes += size

    def take(self) -> list[Any]:
        taken, self._entries, self._bytes = self._entries, [], 0
        return taken


def _seconds_to_wait(response: httpx.Response) -> float | None:
    """Return when to ask again what a server refused because it has too much to do."""
    if response.status_code != httpx.codes.TOO_MANY_REQUESTS:
        return None
    told = response.headers.get("retry-after", "")
    return max(float(told), LEAST_WAIT) if told.isdecimal() else LEAST_WAIT


def _error_of(response: httpx.Response) -> MuomniError:
    """Return the error that a problem stands for."""
    try:
        told = response.json()
        kind = KINDS.get(str(told["type"]).removeprefix(TYPE))
        error = MuomniError if kind is None else kind.error
        return error(str(told["detail"]), hint=str(told.get("hint", "")))
    except (ValueError, KeyError, TypeError):
        return MuomniError(
            f"{response.url} answered {response.status_code}", hint="is this a muomni server?"
        )


def _json(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return what sends a JSON body.

    Raises:
        InvalidInput: It is none: NaN, or something that JSON has no word for.
    """
    try:
        content = json.dumps(body, allow_nan=False, default=_plain).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidInput(f"this cannot be asked: {error}", hint="use JSON's values") from error
    return {"content": content, "headers": {"Content-Type": "application/json"}}


def _plain(value: Any) -> Any:
    """Return a number of NumPy as one of Python."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} is no JSON value")


def _opened(path: Path) -> Any:
    try:
        return path.open("rb")
    except FileNotFoundError as error:
        raise NotFound(f"{path}: no such file", hint="check its name") from error
    except OSError as error:
        raise UnreadableFile(f"{path}: {error.strerror}", hint="check its permissions") from error


def _size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0  # whoever opens it will say so


def _names(modality: Modalities) -> list[str] | None:
    return None if modality is None else [str(one) for one in modalities_of(modality)]


def _spelled(where: Where) -> str | None:
    """Return a filter as it stands in an address."""
    return where if where is None or isinstance(where, str) else json.dumps(where)


def _line_of(record: Record) -> str:
    told: dict[str, Any] = {"key": record.key, "metadata": dict(record.metadata)}
    if record.text is not None:
        told["text"] = record.text
    if record.vector is not None:
        told["modality"] = str(record.modality)
        told["vector"] = np.asarray(record.vector, np.float64).tolist()
    return json.dumps(told, ensure_ascii=False)  # a line has a limit in bytes


def _count(report: Report, told: Mapping[str, Any]) -> None:
    for name in ("added", "updated", "unchanged", "moved", "failed", "skipped", "seconds"):
        setattr(report, name, getattr(report, name) + told[name])
    report.problems += [
        Problem(one["key"] or "", one["error"], one["hint"], one["key"]) for one in told["failures"]
    ]


def _item_of(told: Mapping[str, Any]) -> Item:
    vector = told.get("vector")
    return Item(
        key=told["key"],
        modality=Modality(told["modality"]),
        source=None,
        text=told["text"],
        metadata=told["metadata"],
        segments=told["segments"],
        added=told["added"],
        vector=None if vector is None else np.asarray(vector, np.float32),
    )


def _hit_of(told: Mapping[str, Any]) -> Hit:
    span = told["span"]
    return Hit(
        rank=told["rank"],
        key=told["key"],
        modality=Modality(told["modality"]),
        score=told["score"],
        cosine=told["cosine"],
        source=None,
        text=told["text"],
        span=None if span is None else Span(span["unit"], span["start"], span["end"]),
        metadata=told["metadata"],
        how=told["how"],
        recall=told["recall"],
    )
