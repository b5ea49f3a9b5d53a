"""The client: the same code on a server as on the disk, with the same answers and errors."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from server_helpers import running, wait_until

from muomni_search import (
    Collection,
    Conflict,
    InvalidInput,
    Modality,
    MuomniError,
    NotFound,
    Query,
    Record,
    UnreadableFile,
    read_corpus,
)
from muomni_search.client import Client, RemoteCollection
from muomni_search.hits import Hits
from muomni_search.server.settings import Settings

Either = Collection | RemoteCollection


@contextmanager
def local(folder: Path) -> Iterator[Either]:
    with Collection.create(folder / "local/c", model="hashing") as collection:
        yield collection


@contextmanager
def remote(folder: Path) -> Iterator[Either]:
    settings = Settings(root=folder / "remote", token="secret")
    with running(settings) as server, Client(server.url, token="secret") as client:
        yield client.create("c", model="hashing")


def without_source(found: Any) -> dict[str, Any]:
    told = {name: getattr(found, name) for name in type(found).__dataclass_fields__}
    vector = told.pop("vector", None)
    added = told.pop("added", None)
    assert added is None or added.endswith("Z")
    return {**told, "source": None, "vector": None if vector is None else vector.tolist()}


def errors(calls: list[Callable[[], Any]]) -> list[type]:
    raised = []
    for call in calls:
        with pytest.raises(MuomniError) as caught:
            call()
        assert caught.value.what
        raised.append(type(caught.value))
    return raised


def live(collection: Either, corpus: Path) -> list[Any]:
    """What somebody does with a collection; return all that comes of it."""
    seen: list[Any] = []
    vector = np.random.default_rng(0).standard_normal(256)
    for _ in range(2):
        report = collection.add(read_corpus([corpus], prefix="p"))
        seen.append({**report.as_dict(), "seconds": 0})
    report = collection.add(
        [
            Record("t", Modality.TEXT, "here", text="an owl", metadata={"year": 2020, "ok": True}),
            Record("v", Modality.IMAGE, "here", vector=vector, text="a caption"),
            Record("e", Modality.TEXT, "here", text="  "),
            Record("ü/ß ?&#", Modality.TEXT, "here", text="odd"),
            {"key": "d", "text": "a dict", "year": 1999},
            {"key": "none"},
        ]
    )
    seen += [{**report.as_dict(), "seconds": 0}, sorted(str(one.key) for one in report.problems)]
    report = collection.add(pa.table({"key": ["d3"], "text": ["a row"], "n": [1.5]}))
    seen += [{**report.as_dict(), "seconds": 0}, [one.source for one in report.problems]]
    with pytest.raises(InvalidInput, match="no record"):
        collection.add(["d4"])
    seen += map(without_source, collection.get(["t", "ü/ß ?&#"], vectors=True))
    seen += map(without_source, collection.items())
    seen += map(without_source, collection.items(modality=["image", "audio"], limit=2))
    seen += map(without_source, collection.items(where={"year": {"$gte": 2000}}))
    seen += map(without_source, collection.items(where="year = 2020", after="a"))
    seen += [collection.count(), collection.count(where={"year": 2020})]
    for query, options in (
        (Query.text("an owl"), {}),
        ("a dog barks", {"k": np.int64(3), "offset": 1, "modality": "text"}),
        (Query.id("p/red.png") - 0.5 * Query.text("sea"), {"include_self": True}),
        (Query.image(corpus / "red.png") + Query.audio(corpus / "low.wav"), {"exact": True}),
        (Query.vector(vector), {"where": "not key = 'v'", "min_score": 0.1}),
        (Query.text("owl"), {"min_score": "auto", "segments": True, "where": {"year": 2020}}),
    ):
        seen += map(without_source, collection.query(query, **options))
    seen.append(type(collection.query("owl")))
    many = collection.query_many(["owl", Query.text("sea")], 2)
    assert all(isinstance(hits, Hits) for hits in [collection.query("owl"), *many])
    assert "owl" in many[0]._repr_html_()
    assert many[0].to_arrow().num_rows == 2
    seen.append([[hit.key for hit in hits] for hits in many])
    seen += [collection.stats()["items"], collection.stats()["model"], collection.failures()]
    fields = collection.fields()
    seen.append({name: (one["items"], one["types"]) for name, one in fields.items()})
    for where in ("yaer > 1", {"year": 2020}, None):
        seen.append(collection.lacking_fields(where))
    seen.append(
        errors(
            [
                lambda: collection.get("none"),
                lambda: collection.delete(["t", "none"]),
                lambda: collection.query(Query.id("none")),
                lambda: collection.query(Query(())),
                lambda: collection.query("owl", k=0),
                lambda: collection.query_many("owl"),
                lambda: collection.delete(where=""),
                lambda: collection.add({"key": "d", "text": "a dict alone"}),  # type: ignore[arg-type]
                lambda: collection.add("photos"),  # type: ignore[arg-type]
                lambda: collection.add(None),  # type: ignore[arg-type]
                lambda: collection.query("owl", where="year >="),
                lambda: collection.query("owl", modality="smell"),
                lambda: collection.query(Query.vector([0.0] * 256)),
                lambda: collection.query(Query.vector([np.nan] * 256)),
                lambda: collection.query(Query.vector([1.0] * 7)),
                lambda: collection.query(Query.image(corpus / "none.png")),
                lambda: collection.query(Query.image(corpus / "dog.txt")),
            ]
        )
    )
    seen += [collection.delete("t"), collection.delete(where="key contains 'notes'")]
    seen += [collection.delete(()), [item.key for item in collection.items()]]
    return seen


def test_a_collection_on_a_server_is_used_as_one_on_the_disk(corpus: Path, tmp_path: Path) -> None:
    with local(tmp_path) as here, remote(tmp_path) as there:
        expected, found = live(here, corpus), live(there, corpus)
    failures = next(one for one in expected if isinstance(one, list) and one and one[-1] == "e")
    assert failures == ["None", "e"]
    # A collection remembers what failed of its folders; a server told its client.
    assert [one for one in found if one != []] == [
        one for one in expected if not _are_failures(one) and one != []
    ]


def _are_failures(one: Any) -> bool:
    return isinstance(one, list) and bool(one) and type(one[0]).__name__ == "Failure"


def test_errors_are_those_of_a_collection(corpus: Path, tmp_path: Path) -> None:
    with running(Settings(root=tmp_path)) as server, Client(server.url) as client:
        with pytest.raises(NotFound, match="'none'"):
            client.collection("none").stats()
        client.create("c", model="hashing")
        with pytest.raises(Conflict):
            client.create("c", model="hashing")
        with pytest.raises(InvalidInput):
            client.create("../c", model="hashing")
        assert [one["name"] for one in client.collections()] == ["c"]
        report = client.collection("c").add(
            Record(str(n), Modality.IMAGE, "here", path=path, metadata={"n": n})
            for n, path in enumerate([corpus / "red.png", corpus / "gone.png", corpus / "dog.txt"])
        )
        assert (report.added, report.failed) == (2, 1)
        assert [one.key for one in report.problems] == ["1"]
        assert [one.metadata for one in client.collection("c").items()] == [{"n": 0}, {"n": 2}]
        (tmp_path / "bad.png").write_bytes((corpus / "red.png").read_bytes()[:60])
        with pytest.raises(UnreadableFile):
            client.collection("c").query(Query.image(tmp_path / "bad.png"))


@pytest.mark.parametrize(
    "key", ['a"b.txt', "a%22b.txt", "a\nb.txt", "a\\b.txt", "c:\\b.txt", "ü\u202e.txt", "a;b=c"]
)
def test_a_file_of_any_name_keeps_its_key_and_metadata(tmp_path: Path, key: str) -> None:
    (tmp_path / "a.txt").write_text("an owl")
    record = Record(key, Modality.TEXT, "here", path=tmp_path / "a.txt", metadata={"n": 1})
    with remote(tmp_path) as there:
        assert there.add([record]).added == 1
        [item] = there.items()
    assert (item.key, item.metadata) == (key, {"n": 1})


def test_a_token_and_an_address_may_be_anything(root: Path) -> None:
    settings = Settings(root=root, token="schlüssel")
    with running(settings) as server, Client(server.url, token="schlüssel") as client:
        assert client.collections()
    for url in ("http://here:port", "here", "http://["):
        with pytest.raises(MuomniError), Client(url) as client:
            client.collections()


def test_a_server_that_is_not_there_or_wants_a_token_says_so(root: Path) -> None:
    with Client("http://127.0.0.1:9") as client, pytest.raises(MuomniError, match="muomni serve"):
        client.collections()
    with running(Settings(root=root, token="secret")) as server:
        with Client(server.url) as client, pytest.raises(MuomniError, match="token"):
            client.collections()
        with Client(server.url + "/nowhere", token="secret") as client, pytest.raises(NotFound):
            client.collections()


def test_a_closed_collection_closes_no_client_that_others_use(root: Path) -> None:
    with running(Settings(root=root)) as server:
        with Client(server.url) as client:
            with client.collection("small") as small, client.collection("empty") as empty:
                assert small.count() != empty.count()
            assert client.collection("small").query("dog", 1)
            with pytest.raises(MuomniError, match="small is closed"):
                small.count()
        with pytest.raises(MuomniError, match="is closed"):
            client.collections()
        # And the one that nobody else holds goes with it.
        with Client(server.url).collection("small") as small:
            http = small._client._http
            assert small.query("dog", 1)
        assert http.is_closed


def test_a_server_with_too_much_to_do_is_asked_again(root: Path) -> None:
    settings = Settings(root=root, searches=1, waiting=0)
    with running(settings) as server, Client(server.url) as client:
        done, begun = threading.Event(), threading.Event()

        def wait() -> None:
            begun.set()
            assert done.wait(60)

        asyncio.run_coroutine_threadsafe(server.served.searches.run(wait), server.loop)
        assert begun.wait(60)
        # Its patience is over at once.
        with Client(server.url, timeout=0.01) as hasty, pytest.raises(MuomniError, match="more"):
            hasty.collection("small").query("dog")
        found: list[Hits] = []
        small = client.collection("small")
        asking = threading.Thread(target=lambda: found.append(small.query("dog", 1)))
        requests = server.app.state.metrics.requests
        refused = requests.labels("POST", "/v1/collections/{name}/search", 429)._value
        before = refused.get()
        asking.start()
        wait_until(lambda: refused.get() > before)
        done.set()
        asking.join()
        assert [hit.key for hit in found[0]] == ["dog.txt"]


def test_many_queries_are_answered_in_their_order_and_a_bad_one_is_raised(root: Path) -> None:
    with running(Settings(root=root)) as server, Client(server.url) as client:
        small = client.collection("small")
        queries = [Query.id(key) for key in ("dog.txt", "red.png", "low.wav")] * 10
        answers = small.query_many(queries, 1, include_self=True)
        assert [hits[0].key for hits in answers] == ["dog.txt", "red.png", "low.wav"] * 10
        with pytest.raises(NotFound, match="'none'"):
            small.query_many([*queries, Query.id("none")])


@pytest.mark.parametrize("asked", [{"limit": -1}, {"limit": 1.5}, {"after": 5}])
def test_no_page_of_items_is_asked_for_in_vain(tmp_path: Path, asked: dict[str, Any]) -> None:
    with remote(tmp_path) as there, pytest.raises(InvalidInput, match=r"limit is|after is"):
        list(there.items(**asked))


def test_a_text_of_any_letters_takes_the_bytes_that_it_has(tmp_path: Path) -> None:
    with remote(tmp_path) as there:
        # As escapes they would be twice as many, more than a line may have.
        text = "猫と犬" * 1_000_000
        assert (
            there.add([Record("long", Modality.TEXT, "here", text=text)]).as_dict()["failed"] == 0
        )
        assert there.get("long")[0].text == text


def test_many_items_go_in_several_requests(tmp_path: Path) -> None:
    with remote(tmp_path) as there:
        count = 12_345
        report = there.add(
            Record(f"{n:05}", Modality.TEXT, "here", text=f"text {n % 7}") for n in range(count)
        )
        assert report.added == count
        assert [item.key for item in there.items(limit=2_500)] == [f"{n:05}" for n in range(2_500)]
        assert sum(1 for _ in there.items()) == count
