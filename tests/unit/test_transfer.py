"""Export and import: what comes back is what went out, and what is no export is refused."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from numpy.typing import NDArray
from PIL import Image

from muomni_search import transfer
from muomni_search.collection import Collection
from muomni_search.encoders import hashing
from muomni_search.errors import Conflict, CorruptData, InvalidInput, MuomniError, NotFound
from muomni_search.ingest.manifest import read_corpus
from muomni_search.items import DIM, Hit, Modality, Query, Record, Span
from muomni_search.pipeline import Report
from muomni_search.store.store import NewItem
from muomni_search.transfer import export_collection, import_collection
from muomni_search.vectors import normalise

VECTORS = normalise(np.random.default_rng(3).standard_normal((400, DIM)))
QUERIES = [
    Query.text("an owl in the night"),
    Query.id("long.txt") - Query.text("sentence"),
    Query.vector(VECTORS[7]) + 0.5 * Query.id("low.wav"),
    Query.vector(-VECTORS[8]),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Texts, pictures and sounds, some of them long."""
    folder = tmp_path_factory.mktemp("corpus")
    rng = np.random.default_rng(1)
    (folder / "owl.txt").write_text("An owl calls in the night.")
    (folder / "grüße, 漢字 🦉.txt").write_text("Grüße aus Köln: 漢字 🦉")
    (folder / "long.txt").write_text(" ".join(f"Sentence {n} tells of {n}." for n in range(40)))
    for number in range(3):
        pixels = rng.integers(0, 256, (24, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    seconds = np.arange(5 * 16_000) / 16_000
    soundfile.write(folder / "low.wav", 0.5 * np.sin(2 * np.pi * 110 * seconds), 16_000)
    return folder


@pytest.fixture(scope="module")
def mixed(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Collection]:
    """A collection of all modalities, with items of several segments and rows that are dead."""
    with Collection.create(tmp_path_factory.mktemp("mixed") / "c", model="hashing") as collection:
        collection.add(read_corpus([folder]))
        metadata: dict[str, Any] = {
            "Titel": "Straße \u2028 \u0001 \U0001f989",
            "n": 2**53,
            "x": [0.1, None, True, {}],
        }
        vectors = [
            Record(f"v{n}", list(Modality)[n % 3], "test", vector=VECTORS[n], metadata={"n": n})
            for n in range(20)
        ]
        odd = Record("z/odd", Modality.IMAGE, "test", vector=VECTORS[20], metadata=metadata)
        shown = Record(
            "shown", Modality.TEXT, "test", vector=VECTORS[21], text="", source="http://x/"
        )
        collection.add([*vectors, odd, shown])
        collection.add([Record("v3", Modality.TEXT, "test", vector=VECTORS[22])])
        collection.delete(["v4"])
        yield collection


@pytest.fixture
def exported(mixed: Collection, tmp_path: Path) -> Path:
    export_collection(mixed, tmp_path / "all.parquet")
    return tmp_path / "all.parquet"


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[Collection]:
    with Collection.create(tmp_path / "empty", model="hashing") as collection:
        yield collection


def content(collection: Collection) -> dict[str, tuple[Any, ...]]:
    """Return all that export and import must keep, to the bit."""
    found = {}
    with collection.store.snapshot() as snapshot:
        keys = list(snapshot.iter_keys())
        known, rows = snapshot.known(keys), snapshot.item_rows(keys)
        for item in snapshot.iter_items():
            modality, own = rows[item.key]
            spans = [match.span for match in snapshot.matches(modality, own)]
            vectors = snapshot.vectors(modality)[own].tobytes()
            metadata = json.dumps(item.metadata, sort_keys=True)
            content_hash = known[item.key].content_hash
            outside = (modality, item.source, item.text, metadata, content_hash)
            found[item.key] = (*outside, spans, vectors)
    return found


def answers(collection: Collection) -> list[list[Hit]]:
    return [
        *collection.query_many(QUERIES, 50),
        *collection.query_many(QUERIES, 50, segments=True, modality="text"),
        *collection.query_many(QUERIES, 5, where="n > 3"),
    ]


# ---- there and back ------------------------------------------------------------------------------


def test_a_mixed_collection_comes_back_to_the_bit(
    mixed: Collection, empty: Collection, tmp_path: Path
) -> None:
    items = len(list(mixed.items()))
    assert export_collection(mixed, tmp_path / "all.parquet") == items
    report = import_collection(empty, tmp_path / "all.parquet")
    assert (report.added, report.updated, report.unchanged) == (items, 0, 0)
    assert content(empty) == content(mixed)
    assert any(len(spans) > 1 for *_, spans, _ in content(empty).values())
    assert answers(empty) == answers(mixed)
    assert empty.verify() == []


def test_an_export_of_an_import_is_the_same_file(
    exported: Path, empty: Collection, tmp_path: Path
) -> None:
    import_collection(empty, exported)
    export_collection(empty, tmp_path / "again.parquet")
    assert (tmp_path / "again.parquet").read_bytes() == exported.read_bytes()


def test_adding_the_same_files_after_an_import_encodes_nothing(
    exported: Path, empty: Collection, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import_collection(empty, exported)

    def refuse(*_: object) -> None:
        raise AssertionError("encoded")

    monkeypatch.setattr(hashing.HashingEncoder, "encode", refuse)
    monkeypatch.setattr(hashing.HashingEncoder, "prepare", refuse)
    before = content(empty)
    report = empty.add(read_corpus([folder]))
    assert (report.added, report.updated, report.unchanged) == (0, 0, 7)
    assert content(empty) == before


def test_an_import_replaces_by_key_and_leaves_the_rest(
    exported: Path, empty: Collection, mixed: Collection
) -> None:
    records = [
        Record("v1", Modality.AUDIO, "test", vector=VECTORS[30]),
        Record("other", Modality.TEXT, "test", vector=VECTORS[31]),
    ]
    empty.add(records)
    kept = content(empty)["other"]
    report = import_collection(empty, exported)
    assert (report.added, report.updated) == (len(content(mixed)) - 1, 1)
    assert content(empty) == {**content(mixed), "other": kept}
    assert empty.verify() == []


def test_importing_twice_changes_nothing(exported: Path, empty: Collection) -> None:
    first = import_collection(empty, exported)
    before = empty.stats()
    second = import_collection(empty, exported)
    assert (second.added, second.updated, second.unchanged) == (0, 0, first.added)
    assert empty.stats() == before


def test_an_empty_collection_goes_there_and_back(empty: Collection, tmp_path: Path) -> None:
    assert export_collection(empty, tmp_path / "none.parquet") == 0
    assert import_collection(empty, tmp_path / "none.parquet").added == 0


def test_items_survive_the_borders_of_pages_groups_and_commits(
    mixed: Collection, empty: Collection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PAGE_ITEMS", "GROUP_ROWS", "READ_ROWS", "COMMIT_ROWS"):
        monkeypatch.setattr(transfer, name, 3)
    export_collection(mixed, tmp_path / "all.parquet")
    assert pq.ParquetFile(tmp_path / "all.parquet").num_row_groups > 5
    import_collection(empty, tmp_path / "all.parquet")
    assert content(empty) == content(mixed)


def test_a_text_stands_in_the_file_once_however_many_rows_it_has(
    empty: Collection, tmp_path: Path
) -> None:
    text = "".join(map(chr, np.random.default_rng(2).integers(0x4E00, 0x9FFF, 200_000)))
    spans = [Span("char", number, number + 1) for number in range(400)]
    with empty.store.write() as writer:
        writer.put([NewItem("long", Modality.TEXT, VECTORS, spans, text=text)])
    export_collection(empty, tmp_path / "long.parquet")
    assert (tmp_path / "long.parquet").stat().st_size < 3 * len(text.encode())
    with Collection.create(tmp_path / "copy", model="hashing") as copy:
        import_collection(copy, tmp_path / "long.parquet")
        assert content(copy) == content(empty)


def test_other_programs_can_read_an_export(exported: Path, mixed: Collection) -> None:
    rows = pq.read_table(exported).to_pylist()
    expected = content(mixed)
    assert [row["key"] for row in rows] == sorted(row["key"] for row in rows)
    for row in rows:
        modality, source, text, metadata, *_ = expected[row["key"]]
        assert (row["modality"], row["source"], row["text"]) == (modality, source, text)
        assert json.loads(row["metadata"]) == json.loads(metadata)
        assert np.asarray(row["vector"], np.float32).tobytes() in expected[row["key"]][-1]


class Steps:
    """A progress that adds up."""

    def __init__(self) -> None:
        self.total: int | None = None
        self.done = 0
        self.finished = False

    def start(self, total: int | None, label: str) -> None:
        self.total = total

    def advance(self, steps: int = 1) -> None:
        self.done += steps

    def finish(self) -> None:
        self.finished = True


def test_an_import_tells_of_its_progress(exported: Path, empty: Collection) -> None:
    progress = Steps()
    import_collection(empty, exported, progress=progress)
    assert progress.total == progress.done == pq.read_metadata(exported).num_rows
    assert progress.finished


# ---- beside others -------------------------------------------------------------------------------

WRITING = """
import sys
import numpy as np
from muomni_search.collection import Collection
from muomni_search.items import DIM, Modality, Record

with Collection.open(sys.argv[1]) as collection:
    for turn in range(10_000):
        vector = np.eye(1, DIM, turn % DIM, dtype=np.float32)[0]
        facts = {"origin": "t", "vector": vector, "metadata": {"turn": turn}}
        collection.add(Record(f"k{number}", Modality.TEXT, **facts) for number in range(40))
        print(turn, flush=True)
"""


def test_an_export_shows_one_state_while_another_process_writes(
    empty: Collection, tmp_path: Path
) -> None:
    # The process replaces 40 items at once, over and over, each time with another vector.
    with subprocess.Popen(
        [sys.executable, "-c", WRITING, str(empty.directory)], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        turns = set()
        try:
            for number in range(6):
                process.stdout.readline()
                path = tmp_path / f"{number}.parquet"
                assert export_collection(empty, path) == 40
                table = pq.read_table(path)
                (metadata,) = set(table["metadata"].to_pylist())
                turn = json.loads(metadata)["turn"]
                expected = np.eye(1, DIM, turn % DIM, dtype=np.float32)
                assert (vectors_of(table) == expected).all()
                turns.add(turn)
        finally:
            process.kill()
    assert len(turns) > 1
    assert empty.verify() == []


def vectors_of(table: pa.Table) -> NDArray[np.float32]:
    flat = table["vector"].combine_chunks().flatten()
    return np.asarray(flat.to_numpy(), np.float32).reshape(-1, DIM)


def test_searching_goes_on_while_an_import_writes(
    exported: Path, empty: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "COMMIT_ROWS", 1)
    reports: list[Report] = []
    thread = threading.Thread(target=lambda: reports.append(import_collection(empty, exported)))
    thread.start()
    before = 0
    while thread.is_alive():
        hits = empty.query(Query.vector(VECTORS[0]), 100)
        assert len({hit.key for hit in hits}) == len(hits) >= before
        before = len(hits)
    thread.join()
    assert reports[0].added == len(empty.query(Query.vector(VECTORS[0]), 100))


# ---- what is no export ---------------------------------------------------------------------------


@pytest.fixture
def target(empty: Collection) -> Iterator[Collection]:
    """A collection with one item, which every test of a hostile file must leave as it is."""
    empty.add([Record("mine", Modality.TEXT, "test", vector=VECTORS[40])])
    before = content(empty)["mine"]
    yield empty
    assert content(empty)["mine"] == before
    assert empty.verify() == []


def test_a_file_of_another_model_is_refused_with_both_fingerprints(
    target: Collection, tmp_path: Path, exported: Path
) -> None:
    other = "0123456789abcdef" * 4
    table = pq.read_table(exported)
    facts = {**table.schema.metadata, b"muomni.fingerprint": other.encode()}
    pq.write_table(table.replace_schema_metadata(facts), tmp_path / "other.parquet")
    with pytest.raises(Conflict) as caught:
        import_collection(target, tmp_path / "other.parquet")
    assert other[:12] in str(caught.value)
    assert target.model.fingerprint()[:12] in str(caught.value)
    assert len(content(target)) == 1


def foreign(path: Path) -> None:
    pq.write_table(pa.table({"key": ["a"], "vector": [[1.0]]}), path)


@pytest.mark.parametrize(
    ("write", "error"),
    [
        (lambda path: None, NotFound),
        (lambda path: path.mkdir(), MuomniError),
        (lambda path: path.write_bytes(b""), InvalidInput),
        (lambda path: path.write_bytes(b"PAR1" + bytes(100) + b"PAR1"), InvalidInput),
        (lambda path: path.write_text('{"key": "a"}\n'), InvalidInput),
        (foreign, InvalidInput),
    ],
)
def test_what_is_no_export_is_refused_by_name(
    target: Collection, tmp_path: Path, write: Any, error: type[MuomniError]
) -> None:
    write(tmp_path / "x.parquet")
    with pytest.raises(error, match=r"x\.parquet") as caught:
        import_collection(target, tmp_path / "x.parquet")
    assert caught.value.hint
    assert len(content(target)) == 1


def test_an_export_may_lack_the_hashes(
    mixed: Collection, empty: Collection, tmp_path: Path, exported: Path
) -> None:
    table = pq.read_table(exported)
    pq.write_table(table.drop_columns(["content_hash"]), tmp_path / "fewer.parquet")
    assert import_collection(empty, tmp_path / "fewer.parquet").added == len(content(mixed))
    assert empty.verify() == []
    hash_at = 4
    expected = {
        key: (*told[:hash_at], None, *told[hash_at + 1 :]) for key, told in content(mixed).items()
    }
    assert content(empty) == expected


def test_a_truncated_export_is_refused(target: Collection, exported: Path) -> None:
    whole = exported.read_bytes()
    for length in range(0, len(whole), len(whole) // 40):
        exported.write_bytes(whole[:length])
        with pytest.raises(InvalidInput, match=r"all\.parquet: no Parquet file"):
            import_collection(target, exported)
    assert len(content(target)) == 1


def test_flipped_bits_are_noticed_or_do_not_matter(
    mixed: Collection, target: Collection, exported: Path
) -> None:
    whole = exported.read_bytes()
    expected = content(mixed)
    rng = np.random.default_rng(9)
    refused: list[MuomniError] = []
    for place in rng.integers(0, len(whole), 150).tolist():
        damaged = bytearray(whole)
        damaged[place] ^= 1 << int(rng.integers(8))
        exported.write_bytes(damaged)
        try:
            import_collection(target, exported)
        except MuomniError as error:
            refused.append(error)
        for key, found in content(target).items():
            assert key == "mine" or found == expected[key]
    assert len(refused) > 100
    assert all("all.parquet" in error.what and error.hint for error in refused)


Rows = list[dict[str, Any]]


def rewrite(path: Path, change: Any) -> None:
    """Write an export anew, in its own layout, with rows that are not what they were."""
    table = pq.read_table(path)
    rows: Rows = table.to_pylist()
    rows = change(rows) or rows
    columns = {name: [row[name] for row in rows] for name in table.schema.names if name != "vector"}
    arrays = [
        pa.array([row["vector"] for row in rows], table.schema.field(name).type)
        if name == "vector"
        else pa.array(columns[name], pa.string()).cast(table.schema.field(name).type)
        for name in table.schema.names
    ]
    pq.write_table(pa.table(arrays, schema=table.schema), path)


def setter(name: str, value: Any, row: int = 0) -> Any:
    return lambda rows: rows[row].update({name: value})


@pytest.mark.parametrize(
    "change",
    [
        setter("key", None),
        setter("key", ""),
        setter("key", "a\0b"),
        setter("modality", None),
        setter("modality", "video"),
        setter("metadata", None),
        setter("metadata", "[1]"),
        setter("metadata", '{"a": NaN}'),
        setter("metadata", '{"a": "\\ud800"}'),
        setter("metadata", "[" * 100_000),
        setter("span", "7"),
        setter("span", '{"unit": "ms", "start": 5, "end": 4}'),
        setter("span", '{"unit": "ms", "start": 0, "end": 1e30}'),
        setter("span", '{"unit": "page", "start": 0, "end": 1}'),
        setter("vector", None),
        setter("vector", [0.0] * DIM),
        setter("vector", [float("nan")] * DIM),
        setter("vector", [1.0] * DIM),
        setter("vector", [None] + [0.0] * (DIM - 1)),
        lambda rows: rows[::-1],
        lambda rows: rows + rows[:1],
        lambda rows: [rows[0], {**rows[0], "text": "another"}],
    ],
)
def test_rows_that_make_no_sense_are_refused(
    target: Collection, exported: Path, change: Any
) -> None:
    rewrite(exported, change)
    with pytest.raises(CorruptData, match=r"all\.parquet is damaged") as caught:
        import_collection(target, exported)
    assert "\n" not in caught.value.what
    assert len(content(target)) == 1


def test_what_came_before_the_damage_may_be_in_but_whole(
    mixed: Collection, target: Collection, exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "COMMIT_ROWS", 4)
    expected = content(mixed)
    good = exported.read_bytes()
    rewrite(exported, setter("vector", [2.0] * DIM, row=-1))
    with pytest.raises(CorruptData):
        import_collection(target, exported)
    found = content(target)
    del found["mine"]
    assert 0 < len(found) < len(expected)
    assert found.items() <= expected.items()
    exported.write_bytes(good)
    report = import_collection(target, exported)
    assert report.unchanged == len(found)
    assert report.added == len(expected) - len(found)


def test_a_row_group_that_would_fill_the_memory_is_refused_unread(
    target: Collection, exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "MAX_GROUP_BYTES", 1_000)
    with pytest.raises(InvalidInput, match="bytes in a row group"):
        import_collection(target, exported)


def test_an_item_of_absurdly_many_rows_is_refused(
    target: Collection, exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "MAX_ITEM_ROWS", 4)
    with pytest.raises(CorruptData, match=r"'long\.txt' has more than 4 segments"):
        import_collection(target, exported)


def test_an_export_that_fails_leaves_the_old_file_and_nothing_else(
    mixed: Collection, exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = exported.read_bytes()

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(transfer.durable, "fsync_file", fail)
    with pytest.raises(MuomniError, match=r"all\.parquet.*No space left") as caught:
        export_collection(mixed, exported)
    assert "free some space" in caught.value.hint
    assert exported.read_bytes() == before
    assert [path.name for path in exported.parent.glob("*parquet*")] == ["all.parquet"]


def test_an_export_into_a_missing_folder_says_so(mixed: Collection, tmp_path: Path) -> None:
    with pytest.raises(MuomniError, match="nowhere"):
        export_collection(mixed, tmp_path / "nowhere" / "x.parquet")


@pytest.mark.parametrize(
    "place",
    ["collection.db", "collection.db-wal", "vectors/x.parquet", "index/x.parquet",
     "link.parquet", "vectors/../collection.db"],
)  # fmt: skip
def test_an_export_over_files_of_the_collection_is_refused(empty: Collection, place: str) -> None:
    empty.add([Record("mine", Modality.TEXT, "test", vector=VECTORS[40])])
    (empty.directory / "link.parquet").symlink_to("collection.db")
    before = content(empty)
    with pytest.raises(InvalidInput, match="keeps its own files") as caught:
        export_collection(empty, empty.directory / place)
    assert caught.value.hint
    assert content(empty) == before
    assert empty.verify() == []


@pytest.mark.parametrize("name", ["all.csv", "all", "all.parquet.gz", ".parquet"])
def test_an_export_is_called_parquet(mixed: Collection, tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidInput, match="no name of an export"):
        export_collection(mixed, tmp_path / name)
    assert list(tmp_path.iterdir()) == []
    assert export_collection(mixed, tmp_path / "ALL.PARQUET")


def test_an_export_replaces_an_export_and_no_other_file(mixed: Collection, tmp_path: Path) -> None:
    path = tmp_path / "all.parquet"
    path.write_text("precious")
    with pytest.raises(Conflict, match="something else"):
        export_collection(mixed, path)
    assert path.read_text() == "precious"
    path.write_bytes(b"")  # nothing is lost with an empty file
    assert export_collection(mixed, path) == export_collection(mixed, path) > 0
    assert [one.name for one in tmp_path.iterdir()] == ["all.parquet"]


def test_metadata_counts_for_what_a_commit_holds(tmp_path: Path) -> None:
    written = tmp_path / "a.parquet"
    with Collection.create(tmp_path / "a", model="hashing") as first:
        first.add(
            Record(
                f"k{n}", Modality.TEXT, "made", vector=np.eye(1, DIM)[0], metadata={"x": "y" * 400}
            )
            for n in range(20)
        )
        export_collection(first, written)
        revisions = []
        with Collection.create(tmp_path / "b", model="hashing") as second:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(transfer, "COMMIT_CHARACTERS", 1_000)
                commit = transfer._commit

                def counted(*arguments: Any) -> None:
                    revisions.append(len(arguments[3]))
                    commit(*arguments)

                patch.setattr(transfer, "_commit", counted)
                assert import_collection(second, written).added == 20
            assert max(revisions) == 3
            assert [item.metadata for item in second.items()] == [{"x": "y" * 400}] * 20
