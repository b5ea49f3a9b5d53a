"""More than a server can do: who is too many is told so, and nothing is kept of them."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
from server_helpers import C, Running, problem, running, wait_until

from muomni_search import Collection
from muomni_search.encoders.model import load_model
from muomni_search.encoders.protocol import Piece
from muomni_search.items import Modality
from muomni_search.server.encoding import Models, Together
from muomni_search.server.served import WRITERS
from muomni_search.server.settings import Settings


def occupy(server: Running, done: threading.Event) -> None:
    """Have a thread for searches do nothing until ``done``."""
    begun = threading.Event()

    def wait() -> None:
        begun.set()
        done.wait(30)

    asyncio.run_coroutine_threadsafe(server.served.searches.run(wait), server.loop)
    assert begun.wait(10)


def test_a_full_queue_says_when_to_come_back(root: Path) -> None:
    settings = Settings(root=root, searches=1, waiting=1, deadline=30)
    done = threading.Event()
    with running(settings) as server, httpx.Client(base_url=server.url, timeout=30) as http:
        occupy(server, done)
        answers: list[httpx.Response] = []
        first = threading.Thread(target=lambda: answers.append(http.get(f"{C}/search?q=dog")))
        first.start()
        wait_until(lambda: server.served.searches.waiting)
        told = http.get(f"{C}/search?q=dog")
        problem(told, 429, "too-many-requests")
        assert int(told.headers["retry-after"]) >= 1
        assert http.get("/v1/health").status_code == 200
        done.set()
        first.join()
    assert [one.status_code for one in answers] == [200]


def test_who_waits_too_long_is_told(root: Path) -> None:
    settings = Settings(root=root, searches=1, waiting=10, deadline=0.2)
    done = threading.Event()
    with running(settings) as server, httpx.Client(base_url=server.url, timeout=30) as http:
        occupy(server, done)
        problem(http.get(f"{C}/search?q=dog"), 429, "too-many-requests")
        done.set()
        assert http.get(f"{C}/search?q=dog").status_code == 200


@pytest.mark.slow
def test_a_thousand_clients_are_all_answered(server: Running) -> None:
    request = (
        f"GET {C}/search?q=dog HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
    )
    wires = [server.connect() for _ in range(1_000)]
    for wire in wires:
        wire.settimeout(60)
        wire.sendall(request)
    statuses = []
    for wire in wires:
        with wire:
            statuses.append(b"".join(iter(lambda: wire.recv(65536), b"")).split()[1])  # noqa: B023
    assert set(statuses) <= {b"200", b"429"}
    assert b"200" in statuses
    with httpx.Client(base_url=server.url) as http:
        assert http.get(f"{C}/search?q=dog").status_code == 200
    assert server.served.searches.waiting == 0


def test_changes_of_one_collection_take_no_thread_from_those_of_another(tmp_path: Path) -> None:
    for name in ("busy", "idle"):
        Collection.create(tmp_path / name, model="hashing").close()
    body = {"items": [{"text": "words"}]}
    with (
        running(Settings(root=tmp_path)) as server,
        httpx.Client(base_url=server.url, timeout=60) as http,
    ):
        answers: list[int] = []

        def add() -> None:
            answers.append(http.post("/v1/collections/busy/items", json=body).status_code)

        threads = [threading.Thread(target=add) for _ in range(2 * WRITERS)]
        # As a program does that writes there, so that nothing sent to this server gets through.
        with Collection.open(tmp_path / "busy") as busy, busy.store.write():
            for thread in threads:
                thread.start()
            wait_until(lambda: server.served.writes.waiting >= WRITERS)
            assert http.post("/v1/collections/idle/items", json=body).json()["added"] == 1
        for thread in threads:
            thread.join()
    assert answers == [200] * len(threads)


def test_an_answer_is_not_held_back(server: Running) -> None:
    import socket

    [listener] = server.server.servers[0].sockets
    assert listener.proto == socket.IPPROTO_TCP


def test_a_client_that_leaves_keeps_no_place(root: Path) -> None:
    settings = Settings(root=root, searches=1, waiting=2, deadline=600)
    body = b'{"parts": [{"kind": "text", "value": "dog"}]}'
    head = b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
    done = threading.Event()
    with running(settings) as server, httpx.Client(base_url=server.url, timeout=30) as http:
        occupy(server, done)
        for request in (
            f"GET {C}/search?q=dog HTTP/1.1\r\nHost: localhost\r\n\r\n".encode(),
            f"POST {C}/search HTTP/1.1\r\nHost: localhost\r\n".encode() + head + body,
        ):
            with server.connect() as wire, server.connect() as other:
                for one in (wire, other):
                    one.sendall(request)
                wait_until(lambda: server.served.searches.waiting >= 2)
                problem(http.get(f"{C}/search?q=dog"), 429, "too-many-requests")
            wait_until(lambda: not server.served.searches.waiting)
        done.set()
        assert http.get(f"{C}/search?q=dog").status_code == 200


def test_a_change_whose_client_leaves_in_the_queue_is_none_and_one_begun_is_whole(
    tmp_path: Path,
) -> None:
    Collection.create(tmp_path / "small", model="hashing").close()

    def request(key: str) -> bytes:
        body = b'--b\r\nContent-Disposition: form-data; name="files"; filename="%b"\r\n\r\nwords'
        form = body % key.encode() + b"\r\n--b--\r\n"
        return (
            f"POST {C}/items HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(form)}\r\n"
            "Content-Type: multipart/form-data; boundary=b\r\n\r\n"
        ).encode() + form

    with (
        running(Settings(root=tmp_path)) as server,
        httpx.Client(base_url=server.url, timeout=60) as http,
    ):
        writes = server.served.writes
        with (
            Collection.open(tmp_path / "small") as small,
            small.store.write(),
            server.connect() as begun,
        ):
            begun.sendall(request("begun.txt"))
            wait_until(lambda: (tmp_path / "small-uploads").exists())
            with server.connect() as queued:
                queued.sendall(request("queued.txt"))
                wait_until(lambda: writes.waiting)
            wait_until(lambda: not writes.waiting)
        assert http.post(f"{C}/items", json={"items": [{"key": "n", "text": "x"}]}).is_success
        assert [one["key"] for one in http.get(f"{C}/items").json()["items"]] == ["begun.txt", "n"]


# ---- queries that are encoded together -----------------------------------------------------------


class Counting:
    """A real encoder that says how many texts came together, and can be held up."""

    def __init__(self) -> None:
        self.encoder = load_model("hashing").encoder(Modality.TEXT)
        self.modality, self.dim = self.encoder.modality, self.encoder.dim
        self.batches: list[int] = []
        self.may_go = threading.Event()
        self.has_begun = threading.Event()

    def fingerprint(self) -> str:
        return self.encoder.fingerprint()

    def prepare(self, content: object) -> list[Piece]:
        return self.encoder.prepare(content)

    def encode(self, batch: list[Piece]) -> np.ndarray:
        self.batches.append(len(batch))
        self.has_begun.set()
        assert self.may_go.wait(20)
        return self.encoder.encode(batch)


def in_threads(together: Together, texts: list[str]) -> tuple[list[threading.Thread], dict]:
    vectors: dict[str, np.ndarray] = {}

    def encode(text: str) -> None:
        vectors[text] = together.encode(together.prepare(text))[0]

    threads = [threading.Thread(target=encode, args=(text,)) for text in texts]
    for thread in threads:
        thread.start()
    return threads, vectors


def test_texts_that_wait_are_encoded_together_and_each_gets_its_own() -> None:
    encoder = Counting()
    together = Together(encoder)
    first, vectors = in_threads(together, ["the first"])
    assert encoder.has_begun.wait(20)
    texts = [f"text {number}" for number in range(9)]
    rest, others = in_threads(together, texts)
    wait_until(lambda: len(together._waiting) >= len(texts))
    encoder.may_go.set()
    for thread in (*first, *rest):
        thread.join()
    assert encoder.batches == [1, 9]
    for text, vector in {**vectors, **others}.items():
        alone = encoder.encoder.encode(encoder.encoder.prepare(text))[0]
        np.testing.assert_array_equal(vector, alone)


def test_nobody_encodes_for_those_who_come_later() -> None:
    class Held(Counting):
        """Holds up its second batch until whoever encoded the first has gone."""

        def encode(self, batch: list[Piece]) -> np.ndarray:
            if self.batches:
                first.join(20)
                assert not first.is_alive()
            return super().encode(batch)

    encoder = Held()
    together = Together(encoder)
    [first], vectors = in_threads(together, ["the first"])
    assert encoder.has_begun.wait(20)
    rest, others = in_threads(together, ["another"])
    wait_until(lambda: together._waiting)
    encoder.may_go.set()
    for thread in rest:
        thread.join()
    assert encoder.batches == [1, 1]
    assert [*vectors, *others] == ["the first", "another"]


def test_an_encoder_that_fails_fails_for_those_it_was_asked_by_and_goes_on() -> None:
    class Failing(Counting):
        def encode(self, batch: list[Piece]) -> np.ndarray:
            if not self.has_begun.is_set():
                self.has_begun.set()
                raise RuntimeError("out of order")
            return self.encoder.encode(batch)

    together = Together(Failing())
    with pytest.raises(RuntimeError, match="out of order"):
        together.encode(together.prepare("a text"))
    assert together.encode(together.prepare("a text")).shape == (1, 256)


def test_whoever_asks_beside_one_that_cannot_be_encoded_gets_an_answer() -> None:
    class Picky(Counting):
        def encode(self, batch: list[Piece]) -> np.ndarray:
            if any("bad" in str(piece.data) for piece in batch):
                raise RuntimeError("a bad text")
            return super().encode(batch)

    encoder = Picky()
    together = Together(encoder)
    failed: list[str] = []

    def fail() -> None:
        with pytest.raises(RuntimeError, match="a bad text") as raised:
            together.encode([Piece("bad")])
        failed.append(str(raised.value))

    first, _ = in_threads(together, ["the first"])
    assert encoder.has_begun.wait(20)
    bad = threading.Thread(target=fail)
    bad.start()
    rest, others = in_threads(together, ["one", "another"])
    wait_until(lambda: len(together._waiting) >= 3)
    encoder.may_go.set()
    for thread in (*first, bad, *rest):
        thread.join()
    assert failed == ["a bad text"]
    assert sorted(others) == ["another", "one"]
    assert encoder.batches == [1, 1, 1]


def test_a_long_text_is_encoded_by_itself() -> None:
    encoder = Counting()
    encoder.may_go.set()
    pieces = encoder.prepare("word ") * 40
    assert Together(encoder).encode(pieces).shape == (40, 256)
    assert encoder.batches == [40]


def test_a_model_is_loaded_once_for_all_collections(server: Running) -> None:
    with httpx.Client(base_url=server.url) as http:
        for name in ("small", "empty"):
            http.get(f"/v1/collections/{name}/search?q=x")
    collections = server.served.collections
    with collections.open("small") as small, collections.open("empty") as empty:
        assert small.model is empty.model
    assert Models().load("hashing") is not Models().load("hashing")


def test_a_root_that_is_slow_holds_up_no_other_request(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_go, has_begun = threading.Event(), threading.Event()
    with (
        running(Settings(root=root)) as server,
        httpx.Client(base_url=server.url, timeout=20) as http,
        ThreadPoolExecutor() as pool,
    ):
        names = server.served.collections.names

        def look_slowly() -> list[str]:
            has_begun.set()
            assert may_go.wait(60)
            return names()

        monkeypatch.setattr(server.served.collections, "names", look_slowly)
        health = pool.submit(http.get, "/v1/health")
        try:
            assert has_begun.wait(60)
            assert http.get("/v1/session").status_code == 200
        finally:
            may_go.set()
        assert health.result(60).json()["collections"] == len(names())
