"""The engines that are compared, each behind the same few verbs.

An engine is built once into a folder, durably, and then opened anew to be asked. Engines that keep
items get a key, a vector and about 100 bytes of metadata for each row; bare indexes get vectors
alone, and a filter reaches them as the row numbers that it lets through. Nothing heavier than NumPy
is imported before an engine is built or opened.
"""

# What the methods do is said in ``Engine``, and not every engine needs all that they are given.
# ruff: noqa: D101, D102, ARG002

from __future__ import annotations

import json
import os
import sqlite3
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

DIM = 256
# Rows that are handed over at a time where an engine takes them in parts.
BATCH = 5_000
THREADS = os.cpu_count() or 1
Rows = np.ndarray
Found = Sequence[int]


class Filter(NamedTuple):
    """Lets through the items whose field is at least ``low`` and below ``high``."""

    field: str
    low: int
    high: int


class Metadata(NamedTuple):
    """What is kept of each row beside its vector: two numbers and some 80 characters."""

    shares: np.ndarray
    topics: np.ndarray
    titles: Sequence[str]

    def of(self, row: int) -> dict[str, Any]:
        return {
            "share": int(self.shares[row]),
            "topic": int(self.topics[row]),
            "title": self.titles[row],
        }

    def allowed(self, condition: Filter) -> np.ndarray:
        values = {"share": self.shares, "topic": self.topics}[condition.field]
        return np.flatnonzero((values >= condition.low) & (values < condition.high))


def key_of(row: int) -> str:
    return f"glosses/{row:08}"


def row_of(key: str) -> int:
    return int(key[-8:])


class Unsupported(Exception):
    """The engine cannot do this."""


class Engine(ABC):
    """One engine in a folder of its own.

    Attributes:
        name: What tables call it.
        package: What it is installed as.
        keeps_items: Whether it keeps keys and metadata and answers for what was written.
        settings: What its search can be set to, cheapest first; empty when there is no knob.
        batches: Whether it takes many queries in one call.
        built_by: The name of the engine whose folder it reads, where it builds none itself.
    """

    name: ClassVar[str]
    package: ClassVar[str]
    keeps_items: ClassVar[bool] = True
    settings: ClassVar[Sequence[dict[str, Any]]] = ()
    batches: ClassVar[bool] = True
    built_by: ClassVar[str] = ""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @abstractmethod
    def build(self, rows: Rows, metadata: Metadata) -> None:
        """Write all rows; they are on the disk and can be searched when this returns."""

    @abstractmethod
    def open(self, metadata: Metadata) -> None:
        """Open what was built; bare indexes keep the metadata in memory for filters."""

    def use(self, **setting: Any) -> None:
        """Search with this setting from now on."""
        raise Unsupported

    @abstractmethod
    def search(self, query: np.ndarray, k: int) -> Found:
        """Return the rows nearest to a query (256,), on one thread where that can be chosen."""

    def search_where(self, query: np.ndarray, k: int, condition: Filter) -> Found:
        """Return the nearest rows that a filter lets through."""
        raise Unsupported

    def search_many(self, queries: np.ndarray, k: int) -> Any:
        """Search with many queries (n, 256) on all threads, as the engine gives the answers."""
        raise Unsupported

    def numbers(self, answers: Any) -> Sequence[Found]:
        """Return the rows in what ``search_many`` returned."""
        return answers

    def add(self, rows: Rows, first: int, metadata: Metadata) -> None:
        """Add rows behind those that are there; the first becomes row number ``first``.

        Args:
            rows: (n, 256).
            first: How many there are already.
            metadata: Of these rows.
        """
        raise Unsupported

    def close(self) -> None:  # noqa: B027  bare indexes have nothing to close
        """Let go of the files."""


def _parts(count: int, size: int = BATCH) -> Iterator[range]:
    for start in range(0, count, size):
        yield range(start, min(count, start + size))


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


# ---- this package ------------------------------------------------------------------------------


class Muomni(Engine):
    """The whole path: ``Collection.add``, ``Collection.query``, ``run_batch``."""

    name = "muomni_search"
    package = "muomni_search"

    def build(self, rows: Rows, metadata: Metadata) -> None:
        from muomni_search import Collection

        with Collection.create(self.folder / "collection", model="base") as collection:
            collection.add(self._records(rows, 0, metadata))

    def _records(self, rows: Rows, first: int, metadata: Metadata) -> Iterator[Any]:
        from muomni_search.items import Modality, Record

        for number, vector in enumerate(rows):
            yield Record(
                key=key_of(first + number),
                modality=Modality.TEXT,
                origin="benchmark",
                vector=vector,
                metadata=metadata.of(number),
            )

    def open(self, metadata: Metadata) -> None:
        from muomni_search import Collection, Query

        self._collection = Collection.open(self.folder / "collection")
        self._ask_with, self._jobs = Query.vector, 0

    def search(self, query: np.ndarray, k: int) -> Found:
        return [row_of(hit.key) for hit in self._collection.query(self._ask_with(query), k)]

    def search_where(self, query: np.ndarray, k: int, condition: Filter) -> Found:
        where = {condition.field: {"$gte": condition.low, "$lt": condition.high}}
        hits = self._collection.query(self._ask_with(query), k, where=where)
        return [row_of(hit.key) for hit in hits]

    def search_many(self, queries: np.ndarray, k: int) -> Path:
        from muomni_search import run_batch

        # A new name each time: a job whose output is there already has nothing to do.
        self._jobs += 1
        asked, output = (self.folder / f"{self._jobs}.{end}" for end in ("npy", "parquet"))
        np.save(asked, queries)
        run_batch(self._collection, asked, output, k=k, exact=False)
        return output

    def numbers(self, answers: Path) -> Sequence[Found]:
        import pyarrow.parquet as pq

        table = pq.read_table(answers, columns=["query_id", "key"])
        found: dict[Any, list[int]] = {}
        for query, key in zip(*(column.to_pylist() for column in table.columns), strict=True):
            found.setdefault(query, []).append(row_of(key))
        return list(found.values())

    def add(self, rows: Rows, first: int, metadata: Metadata) -> None:
        self._collection.add(self._records(rows, first, metadata))

    def close(self) -> None:
        self._collection.close()


class MuomniPlanner(Muomni):
    """The search in it alone: row numbers from mapped rows and an index."""

    name = "`planner.top_rows`"
    built_by = "muomni_search"

    def open(self, metadata: Metadata) -> None:
        from muomni_search import indexing
        from muomni_search.index import files, planner
        from muomni_search.items import Modality
        from muomni_search.store.snapshot import INDEX

        super().open(metadata)
        self._metadata, self._planner = metadata, planner
        # What `View` asks with.
        self._asked: dict[str, Any] = {"index": None, "fetch": planner.FETCH}
        with self._collection.view() as view:
            self._asked["vectors"] = view.snapshot.vectors(Modality.TEXT)
            self._asked["dead"] = view.snapshot.dead(Modality.TEXT)
            file = view.snapshot.index_file(Modality.TEXT)
        if file is not None:
            promise = indexing.promise_of(file)
            self._asked["fetch"] = (promise and promise.fetch) or planner.FETCH
            self._asked["reach"] = promise.reach if promise else -1.0
            path = self._collection.directory / INDEX / file.name
            self._asked["index"] = files.load(path, bytes=file.bytes, checksum=file.checksum)

    def search(self, query: np.ndarray, k: int) -> Found:
        return self._planner.top_rows(query, k=k, **self._asked).rows[:k]

    def search_where(self, query: np.ndarray, k: int, condition: Filter) -> Found:
        allowed = self._metadata.allowed(condition)
        return self._planner.top_rows(query, k=k, allowed=allowed, **self._asked).rows[:k]

    def search_many(self, queries: np.ndarray, k: int) -> Any:
        return self._planner.top_rows_many(queries, k=k, **self._asked)

    def numbers(self, answers: Any) -> Sequence[Found]:
        return [found.rows for found in answers]

    def add(self, rows: Rows, first: int, metadata: Metadata) -> None:
        raise Unsupported


# ---- bare indexes --------------------------------------------------------------------------------


class Faiss(Engine):
    """An index of FAISS in one file, as installed."""

    package = "faiss-cpu"
    keeps_items = False
    description: ClassVar[str]

    def build(self, rows: Rows, metadata: Metadata) -> None:
        import faiss

        lists = 2 ** int(np.log2(4 * np.sqrt(len(rows))))
        index = faiss.index_factory(
            DIM, self.description.format(lists=lists), faiss.METRIC_INNER_PRODUCT
        )
        some = rows[:: max(1, len(rows) // 65_536)]
        index.train(np.ascontiguousarray(some))
        for part in _parts(len(rows), 65_536):
            index.add(np.ascontiguousarray(rows[part.start : part.stop]))
        faiss.write_index(index, str(self.folder / "index.faiss"))
        _sync(self.folder / "index.faiss")

    def open(self, metadata: Metadata) -> None:
        import faiss

        self._faiss, self._metadata = faiss, metadata
        self._index = faiss.read_index(str(self.folder / "index.faiss"))
        self._setting: dict[str, Any] = dict(self.settings[0]) if self.settings else {}

    def use(self, **setting: Any) -> None:
        self._setting = setting

    def parameters(self, **selector: Any) -> Any:
        return self._faiss.SearchParameters(**selector)

    def search(self, query: np.ndarray, k: int) -> Found:
        self._faiss.omp_set_num_threads(1)
        return self._index.search(query[None], k, params=self.parameters())[1][0]

    def search_where(self, query: np.ndarray, k: int, condition: Filter) -> Found:
        self._faiss.omp_set_num_threads(1)
        allowed = np.zeros(-(-self._index.ntotal // 8) * 8, bool)
        allowed[self._metadata.allowed(condition)] = True
        bits = np.packbits(allowed, bitorder="little")
        selector = self._faiss.IDSelectorBitmap(bits)
        found = self._index.search(query[None], k, params=self.parameters(sel=selector))[1][0]
        return found[found >= 0]

    def search_many(self, queries: np.ndarray, k: int) -> Any:
        self._faiss.omp_set_num_threads(THREADS)
        return self._index.search(queries, k, params=self.parameters())[1]

    def add(self, rows: Rows, first: int, metadata: Metadata) -> None:
        self._faiss.omp_set_num_threads(THREADS)
        self._index.add(np.ascontiguousarray(rows))


class FaissFlat(Faiss):
    name = "FAISS Flat"
    description = "Flat"


class FaissHalf(Faiss):
    name = "FAISS SQ fp16"
    description = "SQfp16"


class FaissHnsw(Faiss):
    name = "FAISS HNSW32"
    description = "HNSW32"
    settings = tuple({"efSearch": value} for value in (32, 64, 128, 256, 512, 1024))

    def parameters(self, **selector: Any) -> Any:
        return self._faiss.SearchParametersHNSW(**self._setting, **selector)


class FaissScan(Faiss):
    name = "FAISS PQ128x4fs + refine"
    description = "PQ128x4fs,RFlat"
    settings = tuple({"k_factor": value} for value in (5, 10, 20, 50, 100))

    def parameters(self, **selector: Any) -> Any:
        if selector:
            raise Unsupported
        return self._faiss.IndexRefineSearchParameters(k_factor=self._setting["k_factor"])


class FaissLists(Faiss):
    name = "FAISS IVF, PQ128x4fs + refine"
    description = "IVF{lists},PQ128x4fs,RFlat"
    settings = tuple(
        {"nprobe": probes, "k_factor": factor}
        for probes, factor in ((16, 10), (32, 10), (64, 20), (128, 20), (256, 20), (512, 50))
    )

    def parameters(self, **selector: Any) -> Any:
        base = self._faiss.SearchParametersIVF(nprobe=self._setting["nprobe"], **selector)
        return self._faiss.IndexRefineSearchParameters(
            k_factor=self._setting["k_factor"], base_index_params=base
        )


class Usearch(Engine):
    name = "usearch"
    package = "usearch"
    keeps_items = False
    settings = tuple({"expansion": value} for value in (64, 128, 256, 512, 1024))

    def build(self, rows: Rows, metadata: Metadata) -> None:
        from usearch.index import Index

        index = Index(ndim=DIM, metric="ip", dtype="f32", connectivity=16, expansion_add=128)
        for part in _parts(len(rows), 65_536):
            index.add(np.array(part), np.ascontiguousarray(rows[part.start : part.stop]))
        index.save(str(self.folder / "index.usearch"))
        _sync(self.folder / "index.usearch")

    def open(self, metadata: Metadata) -> None:
        from usearch.index import Index

        self._index = Index.restore(str(self.folder / "index.usearch"))

    def use(self, **setting: Any) -> None:
        self._index.expansion_search = setting["expansion"]

    def search(self, query: np.ndarray, k: int) -> Found:
        return self._index.search(query, k, threads=1).keys

    def search_many(self, queries: np.ndarray, k: int) -> Any:
        return self._index.search(queries, k, threads=THREADS)

    def numbers(self, answers: Any) -> Sequence[Found]:
        return answers.keys

    def add(self, rows: Rows, first: int, metadata: Metadata) -> None:
        self._index.add(np.arange(first, first + len(rows)), np.ascontiguousarray(rows))


class Hnswlib(Engine):
    name = "hnswlib"
    package = "hnswlib"
    keeps_items = False
    settings = tuple({"ef": value} for value in (32, 64, 128, 256, 512, 1024))

    def build(self, rows: Rows, metadata: Metadata) -> None:
        import hnswlib

        index = hnswlib.Index(space="ip", dim=DIM)
        index.init_index(max_elements=len(rows), M=16, ef_construction=200)
        for part in _parts(len(rows), 65_536):
            index.add_items(rows[part.start : part.stop], np.array(part), num_threads=THREADS)
        index.save_index(str(self.folder / "index.hnsw"))
        _sync(self.folder / "index.hnsw")

    def open(self, metadata: Metadata) -> None:
        import hnswlib

        self._metadata = metadata
        self._index = hnswlib.Index(space="ip", dim=DIM)
        self._index.load_index(
            str(self.folder / "index.hnsw"), max_elements=len(metadata.shares) + 10_000
        )

    def use(self, **setting: Any) -> None:
        self._index.set_ef(setting["ef"])

    def search(self, query: np.ndarray, k: int) -> Found:
        return self._index.knn_query(query, k, num_threads=1)[0][0]

    def search_where(self, query: np.ndarray, k: int, condition: Filter) -> Found:
        values = {"share": self._metadata.shares, "topic": self._metadata.topics}[condition.field]
        low, high = condition.low, condition.high
        try:
            return self._index.knn_query(
                query, k, num_threads=1, filter=lambda row: low <= values[row] < high
            )[0][0]
        except RuntimeError:
            # It found fewer than k, and gives none then.
            return []

    def search_many(self, queries: np.ndarray, k: int) -> Any:
        return self._index.knn_query(queries, k, num_threads=THREADS)[0]

    def add(self, rows: Rows, first: int, metadata: Metadata) -> None:
        self._index.add_items(rows, np.arange(first, first + len(rows)), num_threads=THREADS)


class Svs(Engine):
    """A graph over half floats."""

    name = "svs Vamana, fp16"
    package = "scalable-vs"
    keeps_items = False
    settings = tuple({"window": value} for value in (10, 20, 40, 80, 160, 320, 640))

    def build(self, rows: Rows, metadata: Metadata) -> None:
        import svs

        parameters = svs.VamanaBuildParameters(alpha=0.95, graph_max_degree=64, window_size=128)
        index = svs.Vamana.build(parameters, self._data(rows), svs.MIP, num_threads=THREADS)
        index.save(*(str(self.folder / name) for name in ("config", "graph", "data")))
        for path in self.folder.rglob("*"):
            if path.is_file():
                _sync(path)

    def _data(self, rows: Rows) -> Any:
        """Return the rows as the index is to hold them."""
        return rows.astype(np.float16)

    def _loader(self, data: str) -> Any:
        """Return what reads them again."""
        import svs

        return svs.VectorDataLoader(data, svs.DataType.float16, dims=DIM)

    def open(self, metadata: Metadata) -> None:
        import svs

        config, graph, data = (str(self.folder / name) for name in ("config", "graph", "data"))
        self._index = svs.Vamana(
            config, svs.GraphLoader(graph), self._loader(data), svs.MIP, num_threads=1
        )

    def use(self, **setting: Any) -> None:
        self._index.search_window_size = setting["window"]

    def search(self, query: np.ndarray, k: int) -> Found:
        if self._index.num_threads != 1:
            self._index.num_threads = 1
        return self._index.search(query[None], k)[0][0]

    def search_many(self, queries: np.ndarray, k: int) -> Any:
        self._index.num_threads = THREADS
        return self._index.search(queries, k)[0]


class SvsLvq(Svs):
    """A graph over its own codes (LVQ, 4 bits and 8 of the rest), on Intel's processors alone."""

    name = "svs Vamana, LVQ4x8"

    def build(self, rows: Rows, metadata: Metadata) -> None:
        super().build(rows, metadata)
        (self.folder / "rows.fvecs").unlink()  # what the loader read

    def _data(self, rows: Rows) -> Any:
        import svs

        path = str(self.folder / "rows.fvecs")
        svs.write_vecs(rows, path)
        loader = svs.VectorDataLoader(path, svs.DataType.float32)
        return svs.LVQLoader(loader, primary=4, residual=8)

    def _loader(self, data: str) -> Any:
        import svs

        return svs.LVQLoader(data)


class Turbovec(Engine):
    """Its 4-bit scan, and the candidates compared with NumPy on a file of rows."""

    name = "turbovec 4 bit + NumPy refine"
    package = "turbovec"
    keeps_items = False
    settings = tuple({"fetch": value} for value in (20, 50, 100, 200, 400))

    def build(self, rows: Rows, metadata: Metadata) -> None:
        import turbovec

        index = turbovec.TurboQuantIndex(DIM, 4)
        index.add(np.ascontiguousarray(rows))
        index.write(str(self.folder / "index.tv"))
        np.save(self.folder / "rows.npy", rows)
        _sync(self.folder / "rows.npy")

    def open(self, metadata: Metadata) -> None:
        import turbovec

        self._metadata, self._fetch = metadata, 50
        self._index = turbovec.TurboQuantIndex.load(str(self.folder / "index.tv"))
        self._rows = np.load(self.folder / "rows.npy", mmap_mode="r")

    def use(self, **setting: Any) -> None:
        self._fetch = setting["fetch"]

    def _refined(self, query: np.ndarray, rows: np.ndarray, k: int) -> Found:
        rows = rows.astype(np.int64)
        return rows[np.argsort(-(self._rows[rows] @ query))[:k]]

    def search(self, query: np.ndarray, k: int) -> Found:
        return self._refined(query, self._index.search(query[None], self._fetch)[1][0], k)

    def search_where(self, query: np.ndarray, k: int, condition: Filter) -> Found:
        mask = np.zeros(len(self._rows), bool)
        allowed = self._metadata.allowed(condition)
        mask[allowed] = True
        found = self._index.search(query[None], min(self._fetch, len(allowed)), mask=mask)[1][0]
        return self._refined(query, found, k)

    def search_many(self, queries: np.ndarray, k: int) -> Any:
        found = self._index.search(queries, self._fetch)[1]
        return [self._refined(query, rows, k) for query, rows in zip(queries, found, strict=True)]


# ---- stores ------------------------------------------------------------------------------------


class TurbovecDb(Engine):
    name = "turbovecdb"
    package = "turbovecdb"
    batches = False

    def build(self, rows: Rows, metadata: Metadata) -> None:
        self._connect(create=True)
        for part in _parts(len(rows)):
            self._put(part, rows[part.start : part.stop], [metadata.of(row) for row in part])
        self._table.flush()
        self.close()

    def _connect(self, *, create: bool = False) -> None:
        import turbovecdb

        self._database = turbovecdb.connect(str(self.folder / "db"))
        self._table = self._database.collection("glosses", dim=DIM, create=create)

    def _put(self, numbers: Sequence[int], rows: Rows, metadata: list[dict[str, Any]]) -> None:
        self._table.add(
            ids=[key_of(row) for row in numbers], vectors=np.array(rows), metadatas=metadata
        )

    def open(self, metadata: Metadata) -> None:
        self._connect()

    def search(self, query: np.ndarray, k: int) -> Found:
        return [row_of(key) for key in self._table.query(vector=query, k=k).ids]

    def search_where(self, query: np.ndarray, k: int, condition: Filter) -> Found:
        field, low, high = condition
        where = {"$and": [{field: {"$gte": low}}, {field: {"$lt": high}}]}
        return [row_of(key) for key in self._table.query(vector=query, k=k, where=where).ids]

    def add(self, rows: Rows, first: int, metadata: Metadata) -> None:
        numbers = range(first, first + len(rows))
        self._put(numbers, rows, [metadata.of(row) for row in range(len(rows))])

    def close(self) -> None:
        self._database.close()


class Chroma(Engine):
    name = "chromadb"
    package = "chromadb"
    settings = tuple({"ef_search": value} for value in (100, 200, 400, 800))

    def build(self, rows: Rows, metadata: Metadata) -> None:
        client = self._client()
        table = client.create_collection("glosses", configuration={"hnsw": {"space": "cosine"}})
        for part in _parts(len(rows)):
            self._put(table, part, rows[part.start : part.stop], [metadata.of(row) for row in part])

    def _client(self) -> Any:
        import chromadb

        options = chromadb.Settings(anonymized_telemetry=False)
        return chromadb.PersistentClient(str(self.folder / "db"), settings=options)

    def _put(
        self, table: Any, numbers: Sequence[int], rows: Rows, metadata: list[dict[str, Any]]
    ) -> None:
        table.add(
            ids=[key_of(row) for row in numbers], embeddings=np.array(rows), metadatas=metadata
        )

    def open(self, metadata: Metadata) -> None:
        self._table = self._client().get_collection("glosses")

    def use(self, **setting: Any) -> None:
        self._table.modify(configuration={"hnsw": setting})

    def _answer(self, queries: np.ndarray, k: int, where: Any = None) -> Sequence[Found]:
        given = {"where": where} if where else {}
        ids = self._table.query(query_embeddings=queries, n_results=k, include=[], **given)["ids"]
        return [[row_of(key) for key in own] for own in ids]

    def search(self, query: np.ndarray, k: int) -> Found:
        return self._answer(query[None], k)[0]

    def search_where(self, query: np.ndarray, k: int, condition: Filter) -> Found:
        field, low, high = condition
        where = {"$and": [{field: {"$gte": low}}, {field: {"$lt": high}}]}
        return self._answer(query[None], k, where)[0]

    def search_many(self, queries: np.ndarray, k: int) -> Any:
        found: list[Found] = []
        for part in _parts(len(queries), 100):
            found += self._answer(queries[part.start : part.stop], k)
        return found

    def add(self, rows: Rows, first: int, metadata: Metadata) -> None:
        numbers = range(first, first + len(rows))
        self._put(self._table, numbers, rows, [metadata.of(row) for row in range(len(rows))])


class Lance(Engine):
    name = "lancedb IVF-PQ + refine"
    package = "lancedb"
    batches = False
    settings = tuple(
        {"nprobes": probes, "refine": factor}
        for probes, factor in ((20, 5), (20, 20), (50, 20), (100, 20), (200, 50))
    )

    def build(self, rows: Rows, metadata: Metadata) -> None:
        import lancedb

        database = lancedb.connect(str(self.folder / "db"))
        table = database.create_table("glosses", self._arrow(rows, 0, metadata))
        table.create_index(
            metric="cosine",
            num_partitions=int(np.sqrt(len(rows))),
            num_sub_vectors=64,
            index_type="IVF_PQ",
        )
        for field in ("share", "topic"):
            table.create_scalar_index(field)

    def _arrow(self, rows: Rows, first: int, metadata: Metadata) -> Any:
        import pyarrow as pa

        flat = pa.array(np.ascontiguousarray(rows).ravel(), pa.float32())
        return pa.table(
            {
                "id": [key_of(first + number) for number in range(len(rows))],
                "vector": pa.FixedSizeListArray.from_arrays(flat, DIM),
                "share": pa.array(metadata.shares[: len(rows)]),
                "topic": pa.array(metadata.topics[: len(rows)]),
                "title": pa.array(list(metadata.titles[: len(rows)])),
            }
        )

    def open(self, metadata: Metadata) -> None:
        import lancedb

        self._table = lancedb.connect(str(self.folder / "db")).open_table("glosses")
        self._setting = dict(self.settings[0])

    def use(self, **setting: Any) -> None:
        self._setting = setting

    def _query(self, query: np.ndarray, k: int) -> Any:
        asked = self._table.search(query).distance_type("cosine").select(["id"]).limit(k)
        return asked.nprobes(self._setting["nprobes"]).refine_factor(self._setting["refine"])

    def search(self, query: np.ndarray, k: int) -> Found:
        return [row_of(key) for key in self._query(query, k).to_arrow()["id"].to_pylist()]

    def search_where(self, query: np.ndarray, k: int, condition: Filter) -> Found:
        field, low, high = condition
        asked = self._query(query, k).where(
            f"{field} >= {low} AND {field} < {high}", prefilter=True
        )
        return [row_of(key) for key in asked.to_arrow()["id"].to_pylist()]

    def add(self, rows: Rows, first: int, metadata: Metadata) -> None:
        self._table.add(self._arrow(rows, first, metadata))


class Qdrant(Engine):
    """The client's local mode: every vector compared with NumPy."""

    name = "qdrant-client, local mode"
    package = "qdrant-client"

    def build(self, rows: Rows, metadata: Metadata) -> None:
        from qdrant_client import models

        client = self._client()
        client.create_collection(
            "glosses", models.VectorParams(size=DIM, distance=models.Distance.COSINE)
        )
        for part in _parts(len(rows), 1_000):
            self._put(
                client, part, rows[part.start : part.stop], [metadata.of(row) for row in part]
            )
        client.close()

    def _client(self) -> Any:
        from qdrant_client import QdrantClient

        warnings.filterwarnings("ignore", message="Local mode is not recommended")
        return QdrantClient(path=str(self.folder / "db"))

    def _put(
        self, client: Any, numbers: Sequence[int], rows: Rows, metadata: list[dict[str, Any]]
    ) -> None:
        from qdrant_client import models

        client.upsert(
            "glosses",
            models.Batch(ids=list(numbers), vectors=np.asarray(rows).tolist(), payloads=metadata),
        )

    def open(self, metadata: Metadata) -> None:
        self._opened = self._client()

    def search(self, query: np.ndarray, k: int) -> Found:
        found = self._opened.query_points("glosses", query.tolist(), limit=k, with_payload=False)
        return [point.id for point in found.points]

    def search_where(self, query: np.ndarray, k: int, condition: Filter) -> Found:
        from qdrant_client import models

        field, low, high = condition
        wanted = models.FieldCondition(key=field, range=models.Range(gte=low, lt=high))
        found = self._opened.query_points(
            "glosses", query.tolist(), limit=k, with_payload=False,
            query_filter=models.Filter(must=[wanted]),
        )  # fmt: skip
        return [point.id for point in found.points]

    def search_many(self, queries: np.ndarray, k: int) -> Any:
        from qdrant_client import models

        asked = [models.QueryRequest(query=query.tolist(), limit=k) for query in queries]
        answers = self._opened.query_batch_points("glosses", asked)
        return [[point.id for point in answer.points] for answer in answers]

    def add(self, rows: Rows, first: int, metadata: Metadata) -> None:
        numbers = range(first, first + len(rows))
        self._put(self._opened, numbers, rows, [metadata.of(row) for row in range(len(rows))])

    def close(self) -> None:
        self._opened.close()


class Milvus(Engine):
    name = "milvus-lite HNSW"
    package = "milvus-lite"
    settings = tuple({"ef": value} for value in (32, 64, 128, 256, 512, 1024))

    def build(self, rows: Rows, metadata: Metadata) -> None:
        from pymilvus import DataType

        client = self._client()
        schema = client.create_schema(auto_id=False)
        schema.add_field("id", DataType.INT64, is_primary=True)
        schema.add_field("key", DataType.VARCHAR, max_length=32)
        schema.add_field("vector", DataType.FLOAT_VECTOR, dim=DIM)
        schema.add_field("share", DataType.INT64)
        schema.add_field("topic", DataType.INT64)
        schema.add_field("title", DataType.VARCHAR, max_length=400)
        index = client.prepare_index_params()
        index.add_index(
            "vector", index_type="HNSW", metric_type="COSINE",
            params={"M": 16, "efConstruction": 200},
        )  # fmt: skip
        client.create_collection("glosses", schema=schema, index_params=index)
        for part in _parts(len(rows)):
            self._put(
                client, part, rows[part.start : part.stop], [metadata.of(row) for row in part]
            )
        client.flush("glosses")
        client.load_collection("glosses")
        client.close()

    def _client(self) -> Any:
        from pymilvus import MilvusClient

        return MilvusClient(str(self.folder / "milvus.db"))

    def _put(
        self, client: Any, numbers: Sequence[int], rows: Rows, metadata: list[dict[str, Any]]
    ) -> None:
        records = [
            {"id": number, "key": key_of(number), "vector": row, **own}
            for number, row, own in zip(numbers, np.asarray(rows), metadata, strict=True)
        ]
        client.insert("glosses", records)

    def open(self, metadata: Metadata) -> None:
        self._opened = self._client()
        self._opened.load_collection("glosses")
        self._setting = dict(self.settings[0])

    def use(self, **setting: Any) -> None:
        self._setting = setting

    def _answer(self, queries: np.ndarray, k: int, where: str = "") -> Sequence[Found]:
        found = self._opened.search(
            "glosses", list(queries), limit=k, filter=where,
            search_params={"metric_type": "COSINE", "params": self._setting},
        )  # fmt: skip
        return [[hit["id"] for hit in hits] for hits in found]

    def search(self, query: np.ndarray, k: int) -> Found:
        return self._answer(query[None], k)[0]

    def search_where(self, query: np.ndarray, k: int, condition: Filter) -> Found:
        field, low, high = condition
        return self._answer(query[None], k, f"{field} >= {low} and {field} < {high}")[0]

    def search_many(self, queries: np.ndarray, k: int) -> Any:
        found: list[Found] = []
        for part in _parts(len(queries), 100):
            found += self._answer(queries[part.start : part.stop], k)
        return found

    def add(self, rows: Rows, first: int, metadata: Metadata) -> None:
        numbers = range(first, first + len(rows))
        self._put(self._opened, numbers, rows, [metadata.of(row) for row in range(len(rows))])

    def close(self) -> None:
        self._opened.close()


class DuckDb(Engine):
    """Every row compared: the extension with its HNSW is downloaded where it is installed."""

    name = "duckdb, without vss"
    package = "duckdb"
    batches = False

    def build(self, rows: Rows, metadata: Metadata) -> None:
        self._connect()
        self._database.execute(
            f"CREATE TABLE glosses (id INTEGER, key VARCHAR, vector FLOAT[{DIM}], "
            "share INTEGER, topic INTEGER, title VARCHAR)"
        )
        for part in _parts(len(rows), 65_536):
            some = [getattr(metadata, name)[part.start : part.stop] for name in metadata._fields]
            self.add(rows[part.start : part.stop], part.start, Metadata(*some))
        self._database.execute("CHECKPOINT")
        self.close()

    def _connect(self) -> None:
        import duckdb

        self._database = duckdb.connect(str(self.folder / "glosses.duckdb"))

    def open(self, metadata: Metadata) -> None:
        self._connect()
        self._database.execute("SET threads = 1")

    def search(self, query: np.ndarray, k: int) -> Found:
        return self._nearest(query, k)

    def _nearest(self, query: np.ndarray, k: int, where: str = "") -> Found:
        found = self._database.execute(
            f"SELECT id FROM glosses {where} "
            f"ORDER BY array_inner_product(vector, ?::FLOAT[{DIM}]) DESC LIMIT {k}",
            [query.tolist()],
        ).fetchall()
        return [row for (row,) in found]

    def search_where(self, query: np.ndarray, k: int, condition: Filter) -> Found:
        field, low, high = condition
        return self._nearest(query, k, f"WHERE {field} >= {low} AND {field} < {high}")

    def add(self, rows: Rows, first: int, metadata: Metadata) -> None:
        import pyarrow as pa

        flat = pa.array(np.ascontiguousarray(rows).ravel(), pa.float32())
        count = len(rows)
        given = pa.table(  # noqa: F841  DuckDB finds it by its name
            {
                "id": np.arange(first, first + count, dtype=np.int32),
                "key": [key_of(first + number) for number in range(count)],
                "vector": pa.FixedSizeListArray.from_arrays(flat, DIM),
                "share": metadata.shares[:count].astype(np.int32),
                "topic": metadata.topics[:count].astype(np.int32),
                "title": list(metadata.titles[:count]),
            }
        )
        self._database.execute("INSERT INTO glosses SELECT * FROM given")

    def close(self) -> None:
        self._database.close()


class Zvec(Engine):
    name = "zvec HNSW"
    package = "zvec"
    batches = False
    settings = tuple({"ef": value} for value in (32, 64, 128, 256, 512, 1024))

    def build(self, rows: Rows, metadata: Metadata) -> None:
        import zvec

        self._start()
        numeric = zvec.InvertIndexParam(enable_range_optimization=True)
        schema = zvec.CollectionSchema(
            name="glosses",
            fields=[
                zvec.FieldSchema("share", zvec.DataType.INT64, index_param=numeric),
                zvec.FieldSchema("topic", zvec.DataType.INT64, index_param=numeric),
                zvec.FieldSchema("title", zvec.DataType.STRING),
            ],
            vectors=zvec.VectorSchema(
                "vector", zvec.DataType.VECTOR_FP32, DIM,
                index_param=zvec.HnswIndexParam(zvec.MetricType.IP, m=16, ef_construction=200),
            ),
        )  # fmt: skip
        self._opened = zvec.create_and_open(str(self.folder / "db"), schema)
        for part in _parts(len(rows), 1_000):
            self._put(part, rows[part.start : part.stop], [metadata.of(row) for row in part])
        self._opened.optimize()
        self._opened.flush()
        self._opened.close()

    def _start(self) -> None:
        import zvec

        zvec.init(log_type=zvec.LogType.CONSOLE, log_level=zvec.LogLevel.ERROR)
        self._zvec = zvec

    def _put(self, numbers: Sequence[int], rows: Rows, metadata: list[dict[str, Any]]) -> None:
        documents = [
            self._zvec.Doc(id=str(number), vectors={"vector": row.tolist()}, fields=own)
            for number, row, own in zip(numbers, np.asarray(rows), metadata, strict=True)
        ]
        self._opened.insert(documents)

    def open(self, metadata: Metadata) -> None:
        self._start()
        self._opened = self._zvec.open(str(self.folder / "db"))
        self._setting = dict(self.settings[0])

    def use(self, **setting: Any) -> None:
        self._setting = setting

    def _nearest(self, query: np.ndarray, k: int, where: str | None = None) -> Found:
        asked = self._zvec.Query(
            "vector", vector=query.tolist(), param=self._zvec.HnswQueryParam(**self._setting)
        )
        found = self._opened.query(asked, topk=k, filter=where, output_fields=[])
        return [int(document.id) for document in found]

    def search(self, query: np.ndarray, k: int) -> Found:
        return self._nearest(query, k)

    def search_where(self, query: np.ndarray, k: int, condition: Filter) -> Found:
        field, low, high = condition
        return self._nearest(query, k, f"{field} >= {low} AND {field} < {high}")

    def add(self, rows: Rows, first: int, metadata: Metadata) -> None:
        numbers = range(first, first + len(rows))
        self._put(numbers, rows, [metadata.of(row) for row in range(len(rows))])
        self._opened.flush()

    def close(self) -> None:
        self._opened.close()


class SqliteVec(Engine):
    """Every row compared, in SQLite."""

    name = "sqlite-vec"
    package = "sqlite-vec"
    batches = False

    def build(self, rows: Rows, metadata: Metadata) -> None:
        self._connect()
        self._database.execute("PRAGMA journal_mode=WAL")
        self._database.execute(
            "CREATE VIRTUAL TABLE glosses USING vec0(id INTEGER PRIMARY KEY, "
            f"vector FLOAT[{DIM}] distance_metric=cosine, share INTEGER, topic INTEGER, "
            "+key TEXT, +title TEXT)"
        )
        for part in _parts(len(rows), 65_536):
            some = [getattr(metadata, name)[part.start : part.stop] for name in metadata._fields]
            self.add(rows[part.start : part.stop], part.start, Metadata(*some))
        self.close()

    def _connect(self) -> None:
        import sqlite_vec

        if hasattr(sqlite3.Connection, "enable_load_extension"):
            driver: Any = sqlite3
        else:
            import pysqlite3 as driver
        self._database = driver.connect(self.folder / "glosses.db")
        self._database.enable_load_extension(True)
        sqlite_vec.load(self._database)
        self._database.execute("PRAGMA synchronous=FULL")

    def open(self, metadata: Metadata) -> None:
        self._connect()

    def search(self, query: np.ndarray, k: int) -> Found:
        return self._nearest(query, k, "", ())

    def _nearest(self, query: np.ndarray, k: int, where: str, given: Sequence[int]) -> Found:
        found = self._database.execute(
            f"SELECT id FROM glosses WHERE vector MATCH ? AND k = ? {where} ORDER BY distance",
            (query.astype(np.float32).tobytes(), k, *given),
        )
        return [row for (row,) in found]

    def search_where(self, query: np.ndarray, k: int, condition: Filter) -> Found:
        field, low, high = condition
        return self._nearest(query, k, f"AND {field} >= ? AND {field} < ?", (low, high))

    def add(self, rows: Rows, first: int, metadata: Metadata) -> None:
        values = (
            (first + number, row.tobytes(), int(metadata.shares[number]),
             int(metadata.topics[number]), key_of(first + number), metadata.titles[number])
            for number, row in enumerate(np.asarray(rows, np.float32))
        )  # fmt: skip
        with self._database:
            self._database.executemany("INSERT INTO glosses VALUES (?, ?, ?, ?, ?, ?)", values)

    def close(self) -> None:
        self._database.close()


ENGINES: dict[str, type[Engine]] = {
    "muomni": Muomni,
    "planner": MuomniPlanner,
    "faiss-flat": FaissFlat,
    "faiss-fp16": FaissHalf,
    "faiss-hnsw": FaissHnsw,
    "faiss-ivf": FaissLists,
    "faiss-scan": FaissScan,
    "usearch": Usearch,
    "hnswlib": Hnswlib,
    "svs": Svs,
    "svs-lvq": SvsLvq,
    "turbovec": Turbovec,
    "turbovecdb": TurbovecDb,
    "zvec": Zvec,
    "chroma": Chroma,
    "lance": Lance,
    "milvus": Milvus,
    "qdrant": Qdrant,
    "duckdb": DuckDb,
    "sqlite-vec": SqliteVec,
}


def setting_text(setting: dict[str, Any] | None) -> str:
    """Return a setting as tables show it."""
    return json.dumps(setting)[1:-1].replace('"', "").replace(": ", " ") if setting else "–"
