"""Pictures and sounds: which files may be sent, as what, and in which parts."""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from file_helpers import write_picture, write_sound
from PIL import Image
from server_helpers import C, Running, problem, running, sent

from muomni_search import Collection, Modality, Record, read_corpus
from muomni_search.server.settings import Settings


def original(http: httpx.Client, key: str, **headers: str) -> httpx.Response:
    return http.get(f"{C}/original", params={"key": key}, headers=headers)


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        ("red.png", "image/png"),
        ("blue.jpg", "image/jpeg"),
        ("low.wav", "audio/wav"),
        ("high.flac", "audio/flac"),
    ],
)
def test_an_original_is_the_file_as_what_it_is(
    http: httpx.Client, corpus: Path, key: str, kind: str
) -> None:
    answer = original(http, key)
    assert answer.content == (corpus / key).read_bytes()
    assert answer.headers["content-type"] == kind
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-disposition"].startswith("inline")
    again = original(http, key, **{"If-None-Match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


def test_a_file_that_was_replaced_under_its_old_time_is_another(
    http: httpx.Client, corpus: Path, tmp_path: Path
) -> None:
    path = corpus / "red.png"
    answer = original(http, "red.png")
    facts = path.stat()
    other = tmp_path / "other.png"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    other.write_bytes(content)
    os.utime(other, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    other.replace(path)
    assert path.stat().st_mtime_ns == facts.st_mtime_ns
    again = original(http, "red.png", **{"If-None-Match": answer.headers["etag"]})
    assert again.headers["etag"] != answer.headers["etag"]


@pytest.mark.parametrize("form", ["{}", "W/{}", '"other", W/{}', "*"])
def test_what_a_client_has_is_not_sent_again(http: httpx.Client, form: str) -> None:
    for path in ("original", "thumbnail"):
        url = f"{C}/{path}"
        answer = http.get(url, params={"key": "red.png"})
        known = {"If-None-Match": form.format(answer.headers["etag"])}
        assert http.get(url, params={"key": "red.png"}, headers=known).status_code == 304
        other = {"If-None-Match": '"other"'}
        assert http.get(url, params={"key": "red.png"}, headers=other).status_code == 200


def test_a_range_of_an_unknown_unit_is_ignored(http: httpx.Client, corpus: Path) -> None:
    answer = original(http, "low.wav", Range="items=0-1")
    assert (answer.status_code, answer.content) == (200, (corpus / "low.wav").read_bytes())


def test_a_head_is_told_without_a_body(http: httpx.Client) -> None:
    for path in ("/v1/health", "/", f"{C}/original?key=low.wav", f"{C}/items"):
        got, head = http.get(path), http.head(path)
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["content-length"] == str(len(got.content)), path
    assert http.head(f"{C}/original?key=nobody").status_code == 404


def test_a_text_is_sent_as_plain_text(http: httpx.Client) -> None:
    answer = original(http, "notes/owl.md")
    assert answer.text == "# Owls\n\nAn owl calls in the night."
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"


@pytest.mark.parametrize(
    ("asked", "start", "end"),
    [("0-9", 0, 10), ("100-199", 100, 200), ("-50", -50, None), ("200-", 200, None)],
)
def test_a_range_of_a_sound(
    http: httpx.Client, corpus: Path, asked: str, start: int, end: int | None
) -> None:
    whole = (corpus / "low.wav").read_bytes()
    answer = original(http, "low.wav", Range=f"bytes={asked}")
    assert answer.status_code == 206
    assert answer.content == whole[start:end]
    assert answer.headers["content-range"].endswith(f"/{len(whole)}")


def test_a_range_behind_the_end_is_told(http: httpx.Client, corpus: Path) -> None:
    answer = original(http, "low.wav", Range="bytes=999999-")
    size = (corpus / "low.wav").stat().st_size
    problem(answer, 416, "bad-range")
    assert answer.headers["content-range"] == f"bytes */{size}"
    problem(original(http, "low.wav", Range="bytes=x-y"), 400, "malformed")


def test_a_thumbnail_is_small_and_upright(http: httpx.Client) -> None:
    answer = http.get(f"{C}/thumbnail", params={"key": "red.png", "size": 16})
    with Image.open(io.BytesIO(answer.content)) as image:
        assert (image.format, image.size) == ("WEBP", (16, 16))
    again = http.get(
        f"{C}/thumbnail",
        params={"key": "red.png", "size": 16},
        headers={"If-None-Match": answer.headers["etag"]},
    )
    assert again.status_code == 304
    for size in ("0", "15", "1025", "x"):
        wrong = http.get(f"{C}/thumbnail", params={"key": "red.png", "size": size})
        problem(wrong, 422, "invalid-input")
    problem(http.get(f"{C}/thumbnail", params={"key": "low.wav"}), 404, "not-found")


def test_a_waveform_is_the_envelope(http: httpx.Client) -> None:
    told = http.get(f"{C}/waveform", params={"key": "high.flac"}).json()
    assert (len(told["bars"]), max(told["bars"]), told["seconds"]) == (96, 1.0, 2.0)
    problem(http.get(f"{C}/waveform", params={"key": "red.png"}), 404, "not-found")


# ---- files that may not be sent ----------------------------------------------------------------


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture
def own(place: Path) -> Iterator[tuple[Running, httpx.Client, Path]]:
    """A server of a collection that a test changes, and the folder of its files."""
    files = place / "files"
    files.mkdir()
    write_picture(files / "a.png", 1)
    write_sound(files / "b.wav", 220)
    with Collection.create(place / "indexes/small", model="hashing") as small:
        small.add(read_corpus([files]))
        with (
            running(Settings(root=place / "indexes")) as server,
            httpx.Client(base_url=server.url) as http,
        ):
            yield server, http, files


def add(place: Path, *records: Record) -> None:
    with Collection.open(place / "indexes/small") as small:
        assert small.add(records).failed == 0


def test_a_vector_may_claim_any_file_and_gets_none(
    own: tuple[Running, httpx.Client, Path], place: Path
) -> None:
    secret = write_picture(place / "secret.png", 9)
    vector = np.ones(256, np.float32) / 16
    add(
        place,
        *(
            Record(f"k{n}", modality, "here", vector=vector, source=source)
            for n, (modality, source) in enumerate(
                [
                    (Modality.IMAGE, str(secret)),
                    (Modality.TEXT, "/etc/passwd"),
                    (Modality.IMAGE, str(own[2] / "../secret.png")),
                    (Modality.AUDIO, "https://example.org/a.wav"),
                    (Modality.IMAGE, "relative.png"),
                    (Modality.IMAGE, None),
                ]
            )
        ),
    )
    for number in range(6):
        problem(original(own[1], f"k{number}"), 404, "not-found")
        thumbnail = own[1].get(f"{C}/thumbnail", params={"key": f"k{number}"})
        problem(thumbnail, 404, "not-found")
        item = own[1].get(f"{C}/item", params={"key": f"k{number}"}).json()
        assert (item["has_original"], item["media_type"]) == (False, None)


def test_a_folder_that_the_server_was_given_may_be_shown(place: Path) -> None:
    shown = write_picture(place / "shown.png", 9)
    vector = np.ones(256, np.float32) / 16
    with Collection.create(place / "indexes/small", model="hashing") as small:
        small.add([Record("k", Modality.IMAGE, "here", vector=vector, source=str(shown))])
    settings = Settings(root=place / "indexes", files=(place,))
    with running(settings) as server, httpx.Client(base_url=server.url) as http:
        assert original(http, "k").content == shown.read_bytes()
        assert http.get(f"{C}/item", params={"key": "k"}).json()["has_original"]


@pytest.mark.parametrize("key", [{}, {"key": "k"}])
def test_a_picture_that_a_table_names_is_shown_while_it_is_that_file(
    place: Path, key: dict[str, str]
) -> None:
    shown = write_picture(place / "shown.png", 9)
    (place / "rows.jsonl").write_text(json.dumps({"image": "shown.png", **key}) + "\n")
    with Collection.create(place / "indexes/small", model="hashing") as small:
        small.add(read_corpus([place / "rows.jsonl"]))
    name = key.get("key", "rows.jsonl:1")
    with (
        running(Settings(root=place / "indexes")) as server,
        httpx.Client(base_url=server.url) as http,
    ):
        assert original(http, name).content == shown.read_bytes()
        write_picture(shown, 8)
        os.utime(shown, ns=(1, 1))
        problem(original(http, name), 404, "not-found")


def test_a_link_that_leaves_the_folder_is_not_followed(
    own: tuple[Running, httpx.Client, Path], place: Path
) -> None:
    secret = write_picture(place / "secret.png", 9)
    (own[2] / "a.png").unlink()
    (own[2] / "a.png").symlink_to(secret)
    problem(original(own[1], "a.png"), 404, "not-found")
    problem(own[1].get(f"{C}/thumbnail", params={"key": "a.png"}), 404, "not-found")


def test_a_file_that_became_something_else_is_not_sent(
    own: tuple[Running, httpx.Client, Path],
) -> None:
    for content in (b"<script>alert(1)</script>", b"<svg onload='x'/>", b"", b"\0" * 5_000):
        (own[2] / "a.png").write_bytes(content)
        problem(original(own[1], "a.png"), 404, "not-found")
        problem(own[1].get(f"{C}/thumbnail", params={"key": "a.png"}), 404, "not-found")
    shutil.copy(own[2] / "b.wav", own[2] / "a.png")
    problem(original(own[1], "a.png"), 404, "not-found")
    (own[2] / "a.png").unlink()
    problem(original(own[1], "a.png"), 404, "not-found")
    os.mkfifo(own[2] / "a.png")
    problem(original(own[1], "a.png"), 404, "not-found")


def test_a_picture_that_only_programs_show_is_for_downloading(
    own: tuple[Running, httpx.Client, Path], place: Path
) -> None:
    write_picture(own[2] / "wide.tiff", 3)
    with Collection.open(place / "indexes/small") as small:
        small.add(read_corpus([own[2]]))
    answer = original(own[1], "wide.tiff")
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["content-disposition"].startswith("attachment")
    # And a thumbnail is made of it all the same.
    assert own[1].get(f"{C}/thumbnail", params={"key": "wide.tiff"}).status_code == 200


@pytest.mark.parametrize(
    "name", ['a".png', "a\r\nX-Evil: 1.png", "ä€漢.png", "a;b=c.png", "..", "a/..\\b.png"]
)
def test_no_name_gets_out_of_its_header(
    own: tuple[Running, httpx.Client, Path], place: Path, name: str
) -> None:
    with Collection.open(place / "indexes/small") as small:
        [old] = small.get("a.png")
        assert old.source is not None
        record = Record(
            name, Modality.IMAGE, "here", path=Path(old.source), source=old.source,
            root=str(own[2].resolve()),
        )  # fmt: skip
        assert small.add([record]).failed == 0
    answer = original(own[1], name)
    assert answer.status_code == 200
    assert "x-evil" not in answer.headers
    assert answer.headers["content-disposition"].startswith("inline; filename")


def test_a_picture_over_the_limit_has_no_thumbnail(place: Path, corpus: Path) -> None:
    from muomni_search import Limits

    with Collection.create(place / "indexes/small", model="hashing") as small:
        small.add(read_corpus([corpus]))
    settings = Settings(root=place / "indexes", limits=Limits(max_pixels=100, max_seconds=0.1))
    with running(settings) as server, httpx.Client(base_url=server.url) as http:
        told = problem(http.get(f"{C}/thumbnail", params={"key": "red.png"}), 404, "not-found")
        assert "limit of 100" in told["detail"]
        problem(http.get(f"{C}/waveform", params={"key": "low.wav"}), 404, "not-found")
        for name in ("red.png", "low.wav"):
            answer = http.post("/v1/uploads", files=sent(corpus / name))
            problem(answer, 422, "unreadable-file")
