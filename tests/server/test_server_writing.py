"""Routes that change a collection: nothing is lost, nothing is half there, no file is left over."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import numpy as np
import pytest
from click.testing import CliRunner
from file_helpers import mounted_disk, write_picture
from server_helpers import C, Running, problem, running

from muomni_search import (
    Collection,
    Record,
    export_collection,
    import_collection,
    read_corpus,
)
from muomni_search.cli.main import cli
from muomni_search.items import Modality, Problem
from muomni_search.server.settings import Settings

ITEMS = f"{C}/items"


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Running]:
    """A server of an empty collection."""
    Collection.create(tmp_path / "indexes/small", model="hashing").close()
    with running(Settings(root=tmp_path / "indexes")) as server:
        yield server


@pytest.fixture
def http(own: Running) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=own.url, timeout=60) as client:
        yield client


def keys(http: httpx.Client) -> list[str]:
    return [item["key"] for item in http.get(ITEMS).json()["items"]]


def uploads(tmp_path: Path) -> list[str]:
    folder = tmp_path / "indexes/small-uploads"
    return sorted(one.name for one in folder.rglob("*") if one.is_file())


def lines(*rows: object) -> dict:
    body = "\n".join(one if isinstance(one, str) else json.dumps(one) for one in rows)
    return {"content": body.encode(), "headers": {"Content-Type": "application/x-ndjson"}}


def test_texts_and_vectors_are_added_as_json(http: httpx.Client) -> None:
    vector = np.random.default_rng(0).standard_normal(256).tolist()
    items = [
        {"key": "a/b c", "text": "an owl", "title": "Owl", "metadata": {"year": 2020}},
        {"text": "no key"},
        {"key": "v", "modality": "image", "vector": vector, "text": "a caption"},
    ]
    told = http.post(ITEMS, json={"items": items}).json()
    assert (told["added"], told["failed"], told["failures"]) == (3, 0, [])
    assert http.post(ITEMS, json={"items": items}).json()["unchanged"] == 3
    item = http.get(f"{C}/item", params={"key": "a/b c"}).json()
    assert (item["title"], item["metadata"]) == ("Owl", {"title": "Owl", "year": 2020})


def test_json_is_right_as_a_whole_or_refused(http: httpx.Client) -> None:
    for wrong in (
        {"text": "x", "path": "/etc/passwd"},
        {"text": "x", "source": "/etc/passwd"},
        {"image": "/etc/passwd"},
        {"vector": [1.0] * 256},
        {"text": "x", "modality": "image"},
        {"key": "", "text": "x"},
        {"key": 7, "text": "x"},
        {},
    ):
        body = {"items": [{"key": "good", "text": "good"}, wrong]}
        told = problem(http.post(ITEMS, json=body), 422, "invalid-input")
        assert told["errors"][0]["field"].startswith("items.1")
    assert keys(http) == []


def test_of_lines_each_is_right_or_told(http: httpx.Client) -> None:
    told = http.post(
        ITEMS,
        **lines(
            {"key": "a", "text": "one"},
            '{"text": NaN}',
            "[1]",
            "{",
            {"key": "b", "text": "two", "path": "/etc/passwd"},
            {"key": "a", "text": "again"},
            {"key": "c", "modality": "text", "vector": [0.0] * 256},
            {"key": "d", "text": " "},
            {"key": "e\0", "text": "x"},
            {"key": "f", "text": "x", "metadata": {"a": "\0"}},
            {"key": "z", "text": "last"},
        ),
    ).json()
    assert keys(http) == ["a", "z"]
    assert (told["added"], told["failed"]) == (2, 9)
    assert {one["key"] for one in told["failures"]} >= {"a", "b", "c", "d"}
    assert all(one["error"] and one["hint"] for one in told["failures"])
    assert "/etc" not in json.dumps(told)
    # What a client sent is told to that client alone.
    assert http.get(f"{C}/failures").json() == {"failures": []}


def test_files_are_added_under_their_names(
    http: httpx.Client, corpus: Path, tmp_path: Path
) -> None:
    names = ["dog.txt", "notes/owl.md", "red.png", "low.wav"]
    told = http.post(
        ITEMS,
        files=[("files", (name, (corpus / name).read_bytes())) for name in names],
        data={
            "prefix": "mine/",
            "metadata": json.dumps({"*": {"by": "me"}, "red.png": {"colour": "red"}}),
        },
    ).json()
    assert (told["added"], told["failed"]) == (4, 0)
    assert keys(http) == sorted(f"mine/{name}" for name in names)
    item = http.get(f"{C}/item", params={"key": "mine/red.png"}).json()
    assert item["metadata"] == {"by": "me", "colour": "red"}
    sent = http.get(f"{C}/original", params={"key": "mine/red.png"})
    assert sent.content == (corpus / "red.png").read_bytes()
    assert uploads(tmp_path) == ["dog.txt", "low.wav", "owl.md", "red.png"]
    with Collection.open(tmp_path / "indexes/small") as small:
        assert small.verify() == []


def test_files_that_lie_are_told_and_gone(http: httpx.Client, corpus: Path, tmp_path: Path) -> None:
    png = (corpus / "red.png").read_bytes()
    files = {
        "half.png": png[: len(png) // 2],
        "empty.png": b"",
        "program.exe": b"MZ\x90\0" + bytes(5_000),
        "table.parquet": b"PAR1" + bytes(100),
        "sound.wav": b"RIFF\xff\xff\xff\x7fWAVE" + bytes(50),
        "good.png": png,
    }
    told = http.post(ITEMS, files=[("files", one) for one in files.items()]).json()
    assert (told["added"], told["failed"]) == (1, 5)
    assert {one["key"] for one in told["failures"]} == files.keys() - {"good.png"}
    assert str(tmp_path) not in json.dumps(told)
    assert uploads(tmp_path) == ["good.png"]
    assert http.get(f"{C}/failures").json() == {"failures": []}


def test_a_replacement_that_cannot_be_used_replaces_nothing(
    http: httpx.Client, corpus: Path, tmp_path: Path
) -> None:
    png, jpg = (corpus / "red.png").read_bytes(), (corpus / "blue.jpg").read_bytes()

    def send(content: bytes) -> dict:
        return http.post(ITEMS, files=[("files", ("a.png", content))]).json()

    def shown() -> bytes:
        return http.get(f"{C}/original", params={"key": "a.png"}).content

    assert send(png)["added"] == 1
    assert send(png[:100])["failed"] == 1
    assert shown() == png
    assert send(png)["unchanged"] == 1
    assert shown() == png
    assert send(jpg)["updated"] == 1
    assert shown() == jpg
    assert uploads(tmp_path) == ["a.png"]
    assert http.post(ITEMS, json={"items": [{"key": "a.png", "text": "now words"}]}).json()[
        "updated"
    ]
    assert uploads(tmp_path) == []


@pytest.mark.parametrize(
    "name", ["../../../evil.txt", "/etc/evil.txt", "..\\..\\evil.txt", "a/../../evil.txt", "..",
             ".hidden", "ev\u202eil.txt", "x" * 300 + ".txt", "évil.txt", "a b;c'd`$(e).txt",
             "\U0001d400" * 99 + ".txt", "漢" * 99 + "." + "字" * 9, "no dot " * 9],
)  # fmt: skip
def test_no_name_of_a_file_leads_out_of_the_folder(
    http: httpx.Client, tmp_path: Path, name: str
) -> None:
    before = {one for one in tmp_path.rglob("*") if "small" not in one.name}
    told = http.post(ITEMS, files=[("files", (name, b"harmless words"))]).json()
    assert (told["added"], told["failures"]) == (1, [])
    folder = tmp_path / "indexes/small-uploads"
    [file] = [one for one in folder.rglob("*") if one.is_file()]
    assert file.parent.parent == folder
    assert not file.name.startswith(".")
    outside = {one for one in tmp_path.rglob("*") if "small" not in str(one)}
    assert outside <= before
    assert keys(http) == [name]
    assert http.delete(f"{C}/item", params={"key": name}).json() == {"deleted": 1}
    assert list(folder.iterdir()) == []


def test_a_file_of_a_folder_is_not_deleted_with_its_item(
    http: httpx.Client, tmp_path: Path
) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    picture = write_picture(folder / "a.png", 1)
    with Collection.open(tmp_path / "indexes/small") as small:
        small.add(read_corpus([folder]))
    # Nor replaced by an upload of its name, which would part it from its folder.
    told = http.post(ITEMS, files=[("files", ("a.png", picture.read_bytes()))]).json()
    assert (told["failed"], told["failures"][0]["key"]) == (1, "a.png")
    assert str(folder) not in json.dumps(told)
    assert http.delete(f"{C}/item", params={"key": "a.png"}).json() == {"deleted": 1}
    assert picture.exists()


def test_deleting_by_key_and_filter(http: httpx.Client, tmp_path: Path) -> None:
    items = [{"key": f"k{n}", "text": f"text {n}", "metadata": {"n": n}} for n in range(6)]
    http.post(ITEMS, json={"items": items})
    files = [("files", (f"f{n}.txt", f"file {n}".encode())) for n in range(2)]
    http.post(ITEMS, files=files, data={"metadata": '{"*": {"n": 9}}'})
    told = problem(http.post(f"{C}/delete", json={"keys": ["k0", "none"]}), 404, "not-found")
    assert "none" in told["detail"]
    both = http.post(f"{C}/delete", json={"keys": ["k0"], "where": "n = 1"})
    assert "not both" in problem(both, 422, "invalid-input")["detail"]
    assert len(keys(http)) == 8
    assert http.post(f"{C}/delete", json={"keys": ["k0"]}).json() == {"deleted": 1}
    assert http.post(f"{C}/delete", json={"where": "n = 1"}).json() == {"deleted": 1}
    assert http.post(f"{C}/delete", json={"where": {"n": {"$gte": 5}}}).json() == {"deleted": 3}
    assert uploads(tmp_path) == []
    assert keys(http) == ["k2", "k3", "k4"]
    problem(http.post(f"{C}/delete", json={}), 422, "invalid-input")
    problem(http.delete(f"{C}/item", params={"key": "k0"}), 404, "not-found")


def test_bodies_that_are_no_items(http: httpx.Client, caplog: pytest.LogCaptureFixture) -> None:
    problem(http.post(ITEMS, content=b"x"), 415, "unsupported-media")
    plain = {"Content-Type": "text/plain"}
    problem(http.post(ITEMS, content=b"{}", headers=plain), 415, "unsupported-media")
    problem(http.post(ITEMS, data={"prefix": "x"}), 415, "unsupported-media")
    form = {"Content-Type": "multipart/form-data"}
    problem(http.post(ITEMS, content=b"x", headers=form), 400, "malformed")
    form = {"Content-Type": "multipart/form-data; boundary=b"}
    odd = b"--b\r\nContent Disposition: x\r\n\r\nx\r\n--b--\r\n"
    for body in (odd, b"--b\r\nContent-Dispo", b"--b--", b"--b\r\n\r\nx\r\n--b--\r\n"):
        answer = http.post(ITEMS, content=body, headers=form)
        assert answer.status_code in (400, 422)
        problem(answer, answer.status_code, answer.json()["type"].rpartition(":")[2])
    problem(http.post(ITEMS, content=b"{", headers={"Content-Type": "application/json"}), 400,
            "malformed")  # fmt: skip
    # As curl -d sends it.
    untyped = {"Content-Type": "application/x-www-form-urlencoded"}
    answer = http.post(
        f"{ITEMS[: -len('items')]}delete", content=b'{"keys": ["a"]}', headers=untyped
    )
    assert "application/json" in problem(answer, 422, "invalid-input")["hint"]
    twice = b'{"items": [{"text": "x", "text": "y"}]}'
    problem(http.post(ITEMS, content=twice, headers={"Content-Type": "application/json"}), 400,
            "malformed")  # fmt: skip
    for field, values in (
        # The last is of a file that is called otherwise: its metadata would be lost.
        ("metadata", ("[", "[1]", '{"a": 1}', '{"*": {}, "b.txt": {"year": 2020}}')),
        ("names", ("[", "{}", "[]", "[1]", '["a", "b"]')),
    ):
        for value in values:
            answer = http.post(ITEMS, files=[("files", ("a.txt", b"x"))], data={field: value})
            problem(answer, 422, "invalid-input")
    assert keys(http) == []
    assert [one.message for one in caplog.records if "multipart" in one.name] == []


def test_collections_are_made_below_the_root(http: httpx.Client, tmp_path: Path) -> None:
    made = http.post("/v1/collections", json={"name": "new one", "model": "hashing"})
    assert (made.status_code, made.json()) == (201, {"name": "new one"})
    assert (tmp_path / "indexes/new one/collection.db").exists()
    again = http.post("/v1/collections", json={"name": "new one", "model": "hashing"})
    problem(again, 409, "conflict")
    for name in ("../out", "a/b", ".hidden", "", "x" * 101, "a\0", "small-uploads", "a\n"):
        answer = http.post("/v1/collections", json={"name": name, "model": "hashing"})
        problem(answer, 422, "invalid-input")
    path = http.post("/v1/collections", json={"name": "x", "model": "/etc"})
    problem(path, 422, "invalid-input")
    assert sorted(one.name for one in tmp_path.iterdir()) == ["indexes"]


def test_a_server_that_only_reads_changes_nothing(tmp_path: Path) -> None:
    with Collection.create(tmp_path / "indexes/small", model="hashing") as small:
        small.add([Record("a", Modality.TEXT, "here", text="words")])
    settings = Settings(root=tmp_path / "indexes", read_only=True)
    with running(settings) as server, httpx.Client(base_url=server.url) as http:
        for answer in (
            http.post(ITEMS, json={"items": [{"text": "x"}]}),
            http.delete(f"{C}/item", params={"key": "a"}),
            http.post(f"{C}/delete", json={"keys": ["a"]}),
            http.post("/v1/collections", json={"name": "b", "model": "hashing"}),
        ):
            problem(answer, 403, "forbidden")
        assert keys(http) == ["a"]


# ---- uploaded files belong to their items ------------------------------------------------------


def send_files(http: httpx.Client, *names: str) -> None:
    files = [("files", (name, f"the words of {name}".encode())) for name in names]
    assert http.post(ITEMS, files=files).json()["added"] == len(names)


def test_a_purge_leaves_no_byte_of_an_uploaded_file(
    http: httpx.Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    send_files(http, "a.txt", "b.txt", "c.txt")
    with Collection.open(tmp_path / "indexes/small") as small:
        assert small.purge("a.txt").remains == []
        assert uploads(tmp_path) == ["b.txt", "c.txt"]
        # A deletion that no server did leaves the file: a purge without keys finishes it, when it
        # is so old that nobody can be about to add it.
        small.delete("b.txt")
        [remains] = small.purge().remains
        assert [one.name for one in remains.iterdir()] == ["b.txt"]
        monkeypatch.setattr("muomni_search.store.uploads.STALE_SECONDS", -1.0)
        assert small.purge().remains == []
    assert uploads(tmp_path) == ["c.txt"]
    assert keys(http) == ["c.txt"]


def test_what_a_dead_server_has_left_of_an_upload_goes_at_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory, folder = tmp_path / "indexes/small", tmp_path / "indexes/small-uploads"
    Collection.create(directory, model="hashing").close()
    settings = Settings(root=tmp_path / "indexes")
    with running(settings) as server, httpx.Client(base_url=server.url) as http:
        send_files(http, "kept.txt")
    # As if it had died between writing the file and the commit; one just now, and not for long.
    for name in ("0" * 16, "1" * 16):
        (folder / name).mkdir()
        (folder / name / "half.txt").write_text("half")
    (folder / "mine").mkdir()
    os.utime(folder / ("1" * 16), (4e9, 4e9))
    monkeypatch.setattr("muomni_search.store.uploads.STALE_SECONDS", -1.0)
    readers = Settings(root=tmp_path / "indexes", read_only=True)
    for one, gone in ((readers, False), (settings, True)):
        with running(one) as server, httpx.Client(base_url=server.url) as http:
            assert keys(http) == ["kept.txt"]
            server.served.collections.warm_up(threading.Event())
            assert (folder / ("0" * 16)).exists() is not gone
            assert (folder / ("1" * 16)).exists()
            assert (folder / "mine").exists()
            sent = http.get(f"{C}/original", params={"key": "kept.txt"})
            assert sent.text == "the words of kept.txt"


def test_uploads_of_a_collection_that_moved_away_without_them_stay(tmp_path: Path) -> None:
    root, folder = tmp_path / "indexes", tmp_path / "indexes/small-uploads"
    Collection.create(root / "small", model="hashing").close()
    settings = Settings(root=root)
    with running(settings) as server, httpx.Client(base_url=server.url) as http:
        send_files(http, "theirs.txt")
    (root / "small").rename(root / "theirs")
    for place in folder.iterdir():
        os.utime(place, (0, 0))
    with Collection.create(root / "small", model="hashing") as small:
        assert small.purge().remains == []
    with running(settings) as server, httpx.Client(base_url=server.url) as http:
        server.served.collections.warm_up(threading.Event())
        send_files(http, "own.txt")
        own = "/v1/collections/theirs/original"
        assert http.get(own, params={"key": "theirs.txt"}).text == "the words of theirs.txt"
    told = CliRunner().invoke(cli, ["drop", "-fc", str(root / "small")])
    assert told.exit_code == 0
    assert [one.name for one in folder.rglob("*.txt")] == ["theirs.txt"]


def test_uploads_that_moved_with_their_collection_stay(tmp_path: Path) -> None:
    old, new = tmp_path / "indexes", tmp_path / "moved"
    Collection.create(old / "small", model="hashing").close()
    with running(Settings(root=old)) as server, httpx.Client(base_url=server.url) as http:
        send_files(http, "kept.txt")
    old.rename(new)
    for place in (new / "small-uploads").iterdir():
        os.utime(place, (0, 0))
    with running(Settings(root=new)) as server:
        server.served.collections.warm_up(threading.Event())
    assert [one.name for one in (new / "small-uploads").rglob("*.txt")] == ["kept.txt"]


def test_uploads_stay_that_an_import_or_a_failure_names(tmp_path: Path) -> None:
    directory, folder = tmp_path / "indexes/small", tmp_path / "indexes/small-uploads"
    Collection.create(directory, model="hashing").close()
    settings = Settings(root=tmp_path / "indexes")
    with running(settings) as server, httpx.Client(base_url=server.url) as http:
        send_files(http, "kept.txt", "lost.txt")
    with Collection.open(directory) as small:
        with small.store.write() as writer:
            writer.lose_items(writer.item_ids(["lost.txt"]).values(), "it was damaged")
        export_collection(small, tmp_path / "all.parquet")
        lost = small.failures()
    directory.rename(tmp_path / "away")
    with Collection.create(directory, model="hashing") as small:
        import_collection(small, tmp_path / "all.parquet")
        with small.store.write() as writer:
            writer.fail([Problem(one.source, one.error, one.hint, one.key) for one in lost])
    for place in folder.iterdir():
        os.utime(place, (0, 0))
    with running(settings) as server:
        server.served.collections.warm_up(threading.Event())
    assert sorted(one.name for one in folder.rglob("*.txt")) == ["kept.txt", "lost.txt"]


def test_a_collection_that_is_dropped_takes_its_uploads_along(
    http: httpx.Client, tmp_path: Path
) -> None:
    send_files(http, "a.txt", "b.txt")
    (tmp_path / "indexes/small-uploads/mine.txt").write_text("mine")
    told = CliRunner().invoke(cli, ["drop", "-c", str(tmp_path / "indexes/small")], input="y\n")
    assert told.exit_code == 0
    assert "uploaded" in told.stderr.splitlines()[0]
    assert "2 files" in told.stderr.splitlines()[-2]
    assert "small-uploads holds other files" in told.stderr.splitlines()[-1]
    assert uploads(tmp_path) == ["mine.txt"]


def test_an_upload_that_cannot_be_removed_is_told(
    http: httpx.Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As if it was so long ago that nobody could be about to add it.
    monkeypatch.setattr("muomni_search.store.uploads.STALE_SECONDS", -1.0)
    send_files(http, "a.txt", "b.txt", "c.txt")
    directory = tmp_path / "indexes/small"
    [place] = (one.parent for one in tmp_path.rglob("a.txt"))
    # A mounted disk: nobody may remove that, not even root.
    with mounted_disk(place / "disk", 100_000):
        with Collection.open(directory) as small:
            assert small.purge("a.txt").remains == [place]
            assert small.purge().remains == [place]
        told = CliRunner().invoke(cli, ["drop", "-f", "-c", str(directory)])
        assert told.exit_code == 0
        assert told.stderr.splitlines()[0].startswith("2 files")
        assert "cannot be removed" in told.stderr.splitlines()[1]
        assert place.exists()


# ---- while others are at it --------------------------------------------------------------------


def test_a_collection_that_is_dropped_and_made_anew_is_seen(
    http: httpx.Client, tmp_path: Path
) -> None:
    from muomni_search.store.files import remove_store

    http.post(ITEMS, json={"items": [{"key": "old", "text": "old words"}]})
    assert keys(http) == ["old"]
    remove_store(tmp_path / "indexes/small")
    problem(http.get(ITEMS), 404, "not-found")
    assert http.get("/v1/collections").json() == {"collections": []}
    with Collection.create(tmp_path / "indexes/small", model="base-offline") as small:
        small.add([Record("new", Modality.TEXT, "here", text="new words")])
    assert keys(http) == ["new"]
    assert http.get(f"{C}/search", params={"q": "words"}).json()["hits"][0]["key"] == "new"


def test_a_collection_that_moves_to_another_model_is_searched_with_it(
    http: httpx.Client, tmp_path: Path
) -> None:
    from muomni_search import reembed_collection

    http.post(ITEMS, json={"items": [{"key": "a", "text": "an owl"}]})
    assert http.get(f"{C}/search", params={"q": "owl"}).json()["hits"]
    with Collection.open(tmp_path / "indexes/small") as small:
        reembed_collection(small, "base-offline")
    [hit] = http.get(f"{C}/search", params={"q": "an owl"}).json()["hits"]
    assert round(hit["cosine"], 4) == 1.0
    assert http.get(C).json()["model"]["name"] == "base-offline"


def test_a_damaged_collection_is_told_and_the_others_go_on(
    http: httpx.Client, tmp_path: Path
) -> None:
    bad = tmp_path / "indexes/bad"
    bad.mkdir()
    (bad / "collection.db").write_bytes(b"no database at all" * 100)
    problem(http.get("/v1/collections/bad/items"), 500, "corrupt-data")
    told = {one["name"]: one for one in http.get("/v1/collections").json()["collections"]}
    assert told["small"]["error"] is None
    assert "damaged" in told["bad"]["error"]
    assert str(tmp_path) not in told["bad"]["error"]


def test_a_writer_elsewhere_is_waited_for_then_told(
    own: Running, http: httpx.Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import muomni_search.store.store as store

    write = store.Store.write.__wrapped__  # type: ignore[attr-defined]
    assert write.__defaults__ == (store.LOCK_SECONDS,)
    monkeypatch.setattr(write, "__defaults__", (0.2,))
    with Collection.open(tmp_path / "indexes/small") as small, small.store.write():
        answer = http.post(ITEMS, json={"items": [{"text": "x"}]})
    problem(answer, 503, "busy")
    assert int(answer.headers["retry-after"]) > 0
    assert http.post(ITEMS, json={"items": [{"text": "x"}]}).json()["added"] == 1


def test_two_servers_of_one_collection_and_many_writers_lose_nothing(
    own: Running, tmp_path: Path
) -> None:
    with running(Settings(root=tmp_path / "indexes")) as other:
        statuses: list[int] = []

        def write(url: str, start: int) -> None:
            with httpx.Client(base_url=url, timeout=60) as http:
                for number in range(start, start + 10):
                    body = {"items": [{"key": f"k{number}", "text": f"text {number}"}]}
                    statuses.append(http.post(ITEMS, json=body).status_code)
                    files = [("files", (f"f{number % 3}.txt", f"file {number}".encode()))]
                    statuses.append(http.post(ITEMS, files=files).status_code)

        threads = [
            threading.Thread(target=write, args=(url, 100 * number))
            for number, url in enumerate([own.url, other.url, own.url])
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert set(statuses) == {200}
    with Collection.open(tmp_path / "indexes/small") as small:
        assert sum(item.key.startswith("k") for item in small.items()) == 30
        assert small.verify() == []
        held = {item.source for item in small.items() if item.source}
    files = {str(one) for one in (tmp_path / "indexes/small-uploads").rglob("*.txt")}
    assert held <= files


def test_a_full_disk_is_told_and_nothing_is_half_there(
    http: httpx.Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import errno

    from muomni_search import durable

    http.post(ITEMS, json={"items": [{"key": "a", "text": "before"}]})

    def full(name: str) -> None:
        if name == "before write":
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(durable, "step", full)
    told = problem(http.post(ITEMS, json={"items": [{"text": "x"}]}), 507, "disk-full")
    assert "space" in told["hint"]
    problem(http.post(ITEMS, files=[("files", ("b.txt", b"words"))]), 507, "disk-full")
    monkeypatch.undo()
    assert keys(http) == ["a"]
    assert uploads(tmp_path) == []
    assert http.post(ITEMS, json={"items": [{"text": "x"}]}).json()["added"] == 1


def test_on_a_disk_that_is_full_nothing_is_lost_and_the_server_goes_on(tmp_path: Path) -> None:
    with mounted_disk(tmp_path / "disk", 4_000_000) as disk:
        root = disk / "indexes"
        Collection.create(root / "small", model="hashing").close()
        with (
            running(Settings(root=root)) as server,
            httpx.Client(base_url=server.url, timeout=60) as http,
        ):
            send_files(http, "a.txt")
            items = [{"key": f"k{n:03}", "text": f"text {n}"} for n in range(50)]
            assert http.post(ITEMS, json={"items": items}).json()["added"] == 50
            before = keys(http)
            filling = disk / "others"
            with suppress(OSError), filling.open("wb", buffering=0) as file:
                while True:
                    file.write(bytes(4096))
            more = [{"key": f"m{n:04}", "text": f"more {n} " * 20} for n in range(2_000)]
            for answer in (
                http.post(ITEMS, json={"items": more}),
                http.post(ITEMS, files=[("files", ("big.txt", b"words " * 100_000))]),
                http.post("/v1/collections", json={"name": "new", "model": "hashing"}),
            ):
                told = problem(answer, 507, "disk-full")
                assert "space" in told["hint"]
            # What is there is found as before.
            assert set(before) <= set(keys(http))
            assert http.get(f"{C}/search", params={"q": "text 7", "k": 1}).json()["hits"]
            sent = http.get(f"{C}/original", params={"key": "a.txt"})
            assert sent.text == "the words of a.txt"
            assert [one.name for one in (root / "small-uploads").rglob("*.txt")] == ["a.txt"]
            filling.unlink()
            send_files(http, "b.txt")
            assert http.post(ITEMS, json={"items": more}).json()["failed"] == 0
            made = http.post("/v1/collections", json={"name": "new", "model": "hashing"})
            assert made.status_code == 201
        with Collection.open(root / "small") as small:
            assert small.verify() == []
            assert sum(small.count().values()) == 50 + 2_000 + 2
