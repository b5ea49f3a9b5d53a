"""Routes that read: what they answer is what the collection itself says, without its paths."""

from __future__ import annotations

import json
import re
from pathlib import Path

import httpx
import numpy as np
import pytest
from file_helpers import write_picture
from server_helpers import PATH, C, Running, problem, running, sent

from muomni_search import Collection, Query
from muomni_search.server.settings import Settings


def search(http: httpx.Client, *parts: dict, **options: object) -> httpx.Response:
    return http.post(f"{C}/search", json={"parts": list(parts), **options})


def words(value: str, **more: object) -> dict:
    return {"kind": "text", "value": value, **more}


def test_health_says_what_is_there(http: httpx.Client) -> None:
    told = http.get("/v1/health").json()
    assert (told["status"], told["collections"], told["read_only"]) == ("ok", 2, False)


def test_collections_are_listed_with_their_counts(http: httpx.Client) -> None:
    told = {one["name"]: one for one in http.get("/v1/collections").json()["collections"]}
    assert told["small"] == {
        "name": "small",
        "items": 7,
        "text": 3,
        "image": 2,
        "audio": 2,
        "model": "hashing",
        "error": None,
    }
    assert told["empty"]["items"] == 0


def test_stats_are_those_of_the_collection(http: httpx.Client, root: Path) -> None:
    with Collection.open(root / "small") as small:
        assert http.get(C).json() == {"name": "small", **small.stats()}


def test_items_come_page_by_page(http: httpx.Client) -> None:
    keys: list[str] = []
    after = None
    for _ in range(10):
        params = {"limit": 3} | ({"after": after} if after else {})
        page = http.get(f"{C}/items", params=params).json()
        keys += [item["key"] for item in page["items"]]
        after = page["next"]
        if after is None:
            break
    assert keys == sorted(keys)
    assert len(keys) == 7


def test_items_by_modality_and_filter(http: httpx.Client) -> None:
    # An empty filter is no filter that everything passes: it is none at all, and refused.
    problem(http.get(f"{C}/items", params={"where": ""}), 422, "invalid-input")
    counts = http.get(f"{C}/count", params={"where": "modality != 'audio'"}).json()
    own = {"items": 5, "text": 3, "image": 2, "audio": 0}
    assert counts == {**own, "lacking_fields": {}}
    told = http.get(f"{C}/items", params={"modality": ["image", "audio"]}).json()["items"]
    assert {item["modality"] for item in told} == {"image", "audio"}
    for where in ("key = 'dog.txt'", json.dumps({"key": "dog.txt"})):
        [item] = http.get(f"{C}/items", params={"where": where}).json()["items"]
        assert (item["title"], item["text"]) == ("dog.txt", "A dog barks at the postman.")
        assert item["media_type"] == "text/plain; charset=utf-8"


def test_one_item_with_its_vector(http: httpx.Client, root: Path) -> None:
    told = http.get(f"{C}/item", params={"key": "notes/owl.md", "vectors": True}).json()
    with Collection.open(root / "small") as small:
        [item] = small.get("notes/owl.md", vectors=True)
    assert item.vector is not None
    np.testing.assert_array_equal(np.float32(told["vector"]), item.vector)
    assert told["title"] == "owl.md"


def test_no_answer_says_where_files_lie(http: httpx.Client, corpus: Path) -> None:
    answers = [
        http.get(C),
        http.get("/v1/collections"),
        http.get(f"{C}/items"),
        http.get(f"{C}/item", params={"key": "red.png"}),
        search(http, words("dog")),
        http.get(f"{C}/failures"),
        http.post(f"{C}/explain", json={"parts": [words("dog")], "key": "red.png"}),
    ]
    for answer in answers:
        assert answer.status_code == 200
        # The letters of a picture may spell anything.
        assert not PATH.search(re.sub(r"data:image/png;base64,[^\"]*", "", answer.text))
        assert "source" not in answer.text


@pytest.mark.parametrize(
    "where",
    [
        "source contains '/tmp'",
        "key = 'x' or not source is null",
        {"source": {"$exists": True}},
        {"$or": [{"key": "x"}, {"$not": {"source": "y"}}]},
        '"source" = 1',
    ],
)
def test_a_filter_cannot_find_out_where_files_lie(http: httpx.Client, where: object) -> None:
    problem(search(http, words("dog"), where=where), 422, "invalid-input")
    told = problem(http.post(f"{C}/delete", json={"where": where}), 422, "invalid-input")
    assert "$.source" in told["hint"]


@pytest.mark.parametrize("where", ["$.source = 'BBC'", {"$.source": "BBC"}])
def test_metadata_that_is_called_source_may_be_asked_for(http: httpx.Client, where: object) -> None:
    item = {"key": "called", "text": "words", "metadata": {"source": "BBC"}}
    http.post("/v1/collections/empty/items", json={"items": [item]})
    asked = {"parts": [words("x")], "where": where}
    found = http.post("/v1/collections/empty/search", json=asked).json()
    http.post("/v1/collections/empty/delete", json={"keys": ["called"]})
    assert [hit["key"] for hit in found["hits"]] == ["called"]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"k": 3, "offset": 2},
        {"modality": ["image"]},
        {"where": "key contains 'o'"},
        {"where": {"key": {"$ne": "dog.txt"}}},
        {"min_score": 0.5},
        {"min_score": "auto"},
        {"exact": True, "segments": True},
    ],
)
def test_a_search_finds_what_the_collection_finds(
    http: httpx.Client, root: Path, options: dict
) -> None:
    told = search(http, words("a dog"), words("sea", weight=-0.5), **options).json()
    with Collection.open(root / "small") as small:
        hits = small.query(Query.text("a dog") - 0.5 * Query.text("sea"), **options)
    shared = ("rank", "key", "modality", "score", "cosine", "text", "span", "metadata", "how")
    expected = [{name: hit.as_dict()[name] for name in shared} for hit in hits]
    assert [{name: hit[name] for name in shared} for hit in told["hits"]] == expected


def test_the_short_form_is_a_search_by_words(http: httpx.Client) -> None:
    short = http.get(f"{C}/search", params={"q": "a dog", "k": 2}).json()["hits"]
    assert short == search(http, words("a dog"), k=2).json()["hits"]


def test_a_search_by_item_vector_picture_and_sound(http: httpx.Client, corpus: Path) -> None:
    by_id = search(http, {"kind": "id", "value": "red.png"}, include_self=True, k=1)
    assert by_id.json()["hits"][0]["key"] == "red.png"
    item = http.get(f"{C}/item", params={"key": "low.wav", "vectors": True}).json()
    by_vector = search(http, {"kind": "vector", "vector": item["vector"]}, k=1)
    assert by_vector.json()["hits"][0]["key"] == "low.wav"
    for name, kind in (("red.png", "image"), ("high.flac", "audio")):
        told = http.post("/v1/uploads", files=sent(corpus / name)).json()
        assert told["kind"] == kind
        found = search(http, {"kind": kind, "upload": told["upload"]}, k=1).json()["hits"][0]
        assert (found["key"], round(found["cosine"], 5)) == (name, 1.0)


def test_an_upload_is_told_by_its_content(http: httpx.Client, corpus: Path, tmp_path: Path) -> None:
    lie = {"file": ("sound.mp3", (corpus / "red.png").read_bytes(), "audio/mpeg")}
    told = http.post("/v1/uploads", files=lie).json()
    assert (told["kind"], told["media_type"], told["width"]) == ("image", "image/png", 32)
    wrong = search(http, {"kind": "audio", "upload": told["upload"]})
    problem(wrong, 422, "invalid-input")
    again = http.get(f"/v1/uploads/{told['upload']}")
    assert again.content == (corpus / "red.png").read_bytes()


def test_an_upload_that_is_not_there_is_to_be_sent_again(http: httpx.Client) -> None:
    told = problem(search(http, {"kind": "image", "upload": "0" * 32}), 404, "not-found")
    assert "again" in told["hint"]
    problem(http.get("/v1/uploads/..%2f..%2fetc%2fpasswd"), 404, "no-such-page")
    problem(http.get("/v1/uploads/passwd"), 404, "not-found")


def test_of_uploads_the_oldest_go_first(root: Path, tmp_path: Path) -> None:
    pictures = [write_picture(tmp_path / f"{seed}.png", seed) for seed in range(3)]
    size = max(one.stat().st_size for one in pictures)
    with running(Settings(root=root, upload_bytes=2 * size)) as server:
        with httpx.Client(base_url=server.url) as http:
            ids = [http.post("/v1/uploads", files=sent(one)).json()["upload"] for one in pictures]
            statuses = [http.get(f"/v1/uploads/{one}").status_code for one in ids]
        kept = list((server.served.scratch / "queries").iterdir())
    assert statuses == [404, 200, 200]
    assert sorted(one.name for one in kept) == sorted(ids[1:])


def test_fields_tell_their_commonest_values(http: httpx.Client, root: Path) -> None:
    items = [
        {"key": f"field{n}", "text": f"text {n}", "metadata": {"year": 2000 + n % 2, "tags": ["a"]}}
        for n in range(3)
    ]
    assert http.post("/v1/collections/empty/items", json={"items": items}).json()["added"] == 3
    told = http.get("/v1/collections/empty/fields").json()["fields"]
    assert told["year"]["values"] == [{"value": 2000, "items": 2}, {"value": 2001, "items": 1}]
    assert told["tags"] == {
        "items": 3,
        "types": {"array": 3},
        "indexed": False,
        "values": [{"value": "a", "items": 3}],
    }
    # As told by two of the three, and by all in a client, for all that this was kept.
    few = http.get("/v1/collections/empty/fields", params={"most": 2}).json()["fields"]
    assert few["year"]["items"] == few["tags"]["items"] in (1, 2)
    assert http.get("/v1/collections/empty/fields", params={"most": 0}).status_code == 422
    assert http.get("/v1/collections/empty/fields").json()["fields"] == told
    with Collection.open(root / "empty") as empty:
        empty.index_fields(["year"])
    # To keep an index of a field changes no item.
    told = http.get("/v1/collections/empty/fields").json()["fields"]
    assert told["year"]["indexed"] is True
    with Collection.open(root / "empty") as empty:
        empty.index_fields([], drop=["year"])
    keys = [item["key"] for item in items]
    http.post("/v1/collections/empty/delete", json={"keys": keys})


def test_an_explanation_names_what_carries_an_answer(http: httpx.Client, corpus: Path) -> None:
    upload = http.post("/v1/uploads", files=sent(corpus / "red.png")).json()
    parts = [words("dog"), {"kind": "image", "upload": upload["upload"], "weight": 0.5}]
    told = http.post(f"{C}/explain", json={"parts": parts, "key": "blue.jpg"}).json()
    assert told["evidence"]["kind"] == "grid"
    assert told["overlay"].startswith("data:image/png;base64,iVBOR")
    assert [part["value"] for part in told["parts"]] == ["dog", upload["upload"]]
    text = http.post(f"{C}/explain", json={"parts": [words("dog")], "key": "dog.txt"}).json()
    assert (text["evidence"]["kind"], text["overlay"]) == ("words", None)
    missing = http.post(f"{C}/explain", json={"parts": [words("dog")], "key": "none"})
    problem(missing, 404, "not-found")


def test_a_search_explains_its_hits_where_it_can(http: httpx.Client) -> None:
    asked = {"parts": [words("dog")], "k": 50, "explain": True}
    hits = http.post(f"{C}/search", json=asked).json()["hits"]
    told = {hit["key"]: hit.get("explanation") for hit in hits[:10]}
    assert told["dog.txt"]["evidence"]["kind"] == "words"
    alone = http.post(f"{C}/explain", json={"parts": [words("dog")], "key": "dog.txt"}).json()
    assert told["dog.txt"] == alone
    assert not any(hit.get("explanation") for hit in hits[10:])
    plain = http.post(f"{C}/search", json={**asked, "explain": False}).json()["hits"]
    assert [hit["key"] for hit in plain] == [hit["key"] for hit in hits]
    assert not any("explanation" in hit for hit in plain)
    # A ready vector has no content to look at.
    vector = {"key": "ready", "modality": "text", "vector": [1.0] + [0.0] * 255}
    http.post(f"{C}/items", json={"items": [vector]}).raise_for_status()
    where = {"parts": [words("dog")], "where": "key = 'ready'", "explain": True}
    [hit] = http.post(f"{C}/search", json=where).json()["hits"]
    assert hit.get("explanation") is None
    http.delete(f"{C}/item", params={"key": "ready"}).raise_for_status()


BAD_SEARCHES: list[tuple[object, str]] = [
    ({}, "parts"),
    ({"parts": []}, "parts"),
    ({"parts": [{"kind": "text"}]}, "parts.0"),
    ({"parts": [{"kind": "text", "value": "x", "upload": "y"}]}, "parts.0"),
    ({"parts": [{"kind": "smell", "value": "x"}]}, "parts.0.kind"),
    ({"parts": [words("x", weight=0)]}, "parts.0"),
    ({"parts": [words("x", weight=1e308)]}, "parts.0.weight"),
    ({"parts": [words("x", weight="1")]}, "parts.0.weight"),
    ({"parts": [words("x" * 20_001)]}, "parts.0.value"),
    ({"parts": [words("x")] * 33}, "parts"),
    ({"parts": [words("x")], "k": 0}, "k"),
    ({"parts": [words("x")], "k": 10**9}, "k"),
    ({"parts": [words("x")], "k": "10"}, "k"),
    ({"parts": [words("x")], "offset": -1}, "offset"),
    ({"parts": [words("x")], "modality": ["smell"]}, "modality.0"),
    ({"parts": [words("x")], "colour": "red"}, "colour"),
    ({"parts": [{"kind": "vector", "vector": [0.1] * 255}]}, "parts.0.vector"),
    ({"parts": [{"kind": "vector", "vector": [1e308] * 256}]}, "parts.0.vector.0"),
    ([], "body"),
    ("text", "body"),
]


@pytest.mark.parametrize(("body", "field"), BAD_SEARCHES)
def test_a_bad_search_is_told_with_the_field_at_fault(
    http: httpx.Client, body: object, field: str
) -> None:
    told = problem(http.post(f"{C}/search", json=body), 422, "invalid-input")
    assert field in [error["field"] for error in told["errors"]]


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_no_number_that_is_none_gets_in(http: httpx.Client, number: str) -> None:
    vector = ",".join([number] * 256)
    for part in (
        f'{{"kind": "vector", "vector": [{vector}]}}',
        f'{{"kind": "text", "value": "x", "weight": {number}}}',
    ):
        told = http.post(
            f"{C}/search",
            content=f'{{"parts": [{part}]}}',
            headers={"Content-Type": "application/json"},
        )
        problem(told, 422, "invalid-input")


def test_a_vector_without_a_direction_is_refused(http: httpx.Client) -> None:
    problem(search(http, {"kind": "vector", "vector": [0.0] * 256}), 422, "invalid-input")


@pytest.mark.parametrize("number", [1e30, 1e-30])
def test_a_long_or_short_vector_has_a_direction(http: httpx.Client, number: float) -> None:
    large = search(http, {"kind": "vector", "vector": [number] * 256}, k=7).json()["hits"]
    small = search(http, {"kind": "vector", "vector": [1.0] * 256}, k=7).json()["hits"]
    assert [hit["key"] for hit in large] == [hit["key"] for hit in small]


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"parts": ' + b'{"a":' * 50_000,
        b'{"k": ' + b"9" * 5_000 + b"}",
        b"\x00",
    ],
)
def test_malformed_json_is_a_problem(http: httpx.Client, body: bytes) -> None:
    answer = http.post(f"{C}/search", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code in (400, 422)
    problem(
        answer, answer.status_code, "malformed" if answer.status_code == 400 else "invalid-input"
    )


def test_a_body_that_says_it_is_no_json_is_refused(http: httpx.Client) -> None:
    # A form of another page may send text/plain without asking.
    body = json.dumps({"parts": [words("dog")]})
    for kind in ("text/plain", "application/x-www-form-urlencoded"):
        answer = http.post(f"{C}/search", content=body, headers={"Content-Type": kind})
        problem(answer, 422, "invalid-input")


def test_a_parameter_that_is_misspelled_is_refused(http: httpx.Client) -> None:
    for path in (f"{C}/items?modalty=image", f"{C}/map?x=1", "/v1/health?q=1"):
        told = problem(http.get(path), 422, "invalid-input")
        assert "unknown parameter" in told["detail"]
    answer = http.post(f"{C}/search?k=1", json={"parts": [words("x")]})
    problem(answer, 422, "invalid-input")


def test_a_bad_filter_shows_where(http: httpx.Client) -> None:
    told = problem(search(http, words("x"), where="year >="), 422, "invalid-input")
    assert "year" in told["detail"]
    problem(search(http, words("x"), where={"a": {"$bad": 1}}), 422, "invalid-input")
    problem(search(http, words("x"), where="(" * 5_000), 422, "invalid-input")
    deep: dict = {}
    for _ in range(200):
        deep = {"$not": deep}
    problem(search(http, words("x"), where=deep), 422, "invalid-input")


def test_a_filter_that_lets_nothing_through_tells_of_fields_that_nothing_has(
    http: httpx.Client,
) -> None:
    assert search(http, words("x"), where="sise > 3").json()["lacking_fields"] == {"sise": []}
    items = [{"key": "f", "text": "words", "metadata": {"year": 2000}}]
    assert http.post("/v1/collections/empty/items", json={"items": items}).json()["added"] == 1
    for where, lacking in (("yaer > 1", {"yaer": ["year"]}), ("year > 3000", {}), ("year > 1", {})):
        asked = {"parts": [words("x")], "where": where}
        told = http.post("/v1/collections/empty/search", json=asked).json()
        assert told["lacking_fields"] == lacking
        told = http.get("/v1/collections/empty/count", params={"where": where}).json()
        assert told["lacking_fields"] == lacking
    http.post("/v1/collections/empty/delete", json={"keys": ["f"]})


def test_messages_speak_of_json_and_http_and_not_of_python_or_a_shell(http: httpx.Client) -> None:
    body = {"parts": [7], "where": 7, "min_score": "x", "modality": {}}
    told = problem(http.post(f"{C}/search", json=body), 422, "invalid-input")
    fields = {one["field"] for one in told["errors"]}
    assert fields == {"parts.0", "where", "min_score", "modality"}
    told = json.dumps([told, http.post(f"{C}/items", json={"items": [3]}).json()])
    told += http.post(f"{C}/search", json=[]).text
    assert "object" in told
    assert "array" in told
    for word in ("instance", "dictionary", "list", "NewRecord", "Part", "dict", "constrained"):
        assert word not in told
    hint = http.get(f"{C}/item", params={"key": "none"}).json()["hint"]
    assert "GET …/items" in hint


@pytest.mark.parametrize(
    "path", ["", "/items", "/item?key=x", "/search?q=x", "/original?key=x", "/fields", "/map"]
)
@pytest.mark.parametrize("name", ["none", "..", ".", "%2e%2e%2fsmall", "small%00", "x" * 300])
def test_a_collection_that_is_not_there_is_not_found(server: Running, name: str, path: str) -> None:
    # As it is, for httpx would tidy the path.
    with server.connect() as wire:
        wire.sendall(
            f"GET /v1/collections/{name}{path} HTTP/1.1\r\nHost: localhost\r\n"
            "Connection: close\r\n\r\n".encode()
        )
        answer = b"".join(iter(lambda: wire.recv(65536), b"")).decode()
    assert answer.split()[1] in ("404", "405", "422")
    assert not PATH.search(answer.replace("/v1/collections", ""))


def test_an_unknown_page_is_a_problem(http: httpx.Client) -> None:
    problem(http.get("/v1/nothing"), 404, "no-such-page")
    problem(http.put(f"{C}/items"), 405, "method-not-allowed")


def test_an_item_that_is_not_there_is_not_found(http: httpx.Client) -> None:
    for route in ("item", "original", "thumbnail", "waveform"):
        told = problem(http.get(f"{C}/{route}", params={"key": "no/such"}), 404, "not-found")
        assert "no/such" in told["detail"]
    problem(search(http, {"kind": "id", "value": "no/such"}), 404, "not-found")


def test_metrics_count_requests_by_route(http: httpx.Client) -> None:
    http.get(f"{C}/item", params={"key": "dog.txt"})
    http.get("/made/up")
    told = http.get("/v1/metrics")
    assert told.headers["content-type"].startswith("text/plain")
    route = "/v1/collections/{name}/item"
    assert f'muomni_requests_total{{method="GET",route="{route}",status="200"}}' in told.text
    assert "made" not in told.text
    assert "process_resident_memory_bytes" in told.text
