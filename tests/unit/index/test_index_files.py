from __future__ import annotations

import hashlib
import json
import os
import re
import zlib
from pathlib import Path

import numpy as np
import pytest

from muomni_search import durable
from muomni_search.errors import CorruptData, NotFound
from muomni_search.index import faiss_index, files, planner
from muomni_search.vectors import normalise

HEAD = len(files.MAGIC) + 8


@pytest.fixture(scope="module")
def index():
    rng = np.random.default_rng(5)
    return planner.build_index(normalise(rng.standard_normal((500, 256))))


@pytest.fixture(scope="module")
def good(index, tmp_path_factory) -> tuple[bytes, str]:
    """The bytes of a good file and their checksum."""
    directory = tmp_path_factory.mktemp("good")
    saved = files.save(index, directory, "image.1")
    return (directory / saved.name).read_bytes(), saved.checksum


def write(path: Path, data: bytes) -> dict:
    """Write bytes and return what ``load`` must be told to believe them."""
    path.write_bytes(data)
    return {"bytes": len(data), "checksum": f"{zlib.crc32(data):08x}"}


def refused(path: Path, **expected) -> str:
    with pytest.raises(CorruptData) as caught:
        files.load(path, **expected)
    assert str(path) in caught.value.what
    assert caught.value.hint == "run: muomni rebuild"
    return caught.value.what


def with_params(good: bytes, params: bytes) -> bytes:
    end = HEAD + int.from_bytes(good[len(files.MAGIC) : HEAD], "little")
    return files.MAGIC + len(params).to_bytes(8, "little") + params + good[end:]


def params_of(good: bytes) -> dict:
    end = HEAD + int.from_bytes(good[len(files.MAGIC) : HEAD], "little")
    return json.loads(good[HEAD:end])


def test_what_was_saved_proposes_the_same_rows_when_loaded(index, tmp_path):
    saved = files.save(index, tmp_path / "index", "image.1")
    loaded = files.load(tmp_path / "index" / saved.name, bytes=saved.bytes, checksum=saved.checksum)
    rng = np.random.default_rng(6)
    for query in normalise(rng.standard_normal((20, 256))):
        assert np.array_equal(loaded.search(query, 50), index.search(query, 50))
    assert loaded.rows == index.rows
    assert saved.params == {"kind": "pq4", "codes": 64}


def test_the_name_begins_with_the_stem_and_is_never_used_twice(index, tmp_path):
    names = {files.save(index, tmp_path, "image.7").name for _ in range(5)}
    assert len(names) == 5
    assert all(re.fullmatch(r"image\.7\.[0-9a-f]{12}\.faiss", name) for name in names)


def test_saving_leaves_nothing_but_the_file(index, tmp_path):
    saved = files.save(index, tmp_path, "image.1")
    assert [path.name for path in tmp_path.iterdir()] == [saved.name]


def test_a_save_that_fails_leaves_nothing(index, tmp_path, monkeypatch):
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        files.save(index, tmp_path, "image.1")
    assert not list(tmp_path.iterdir())


def test_a_missing_file_is_not_found(tmp_path):
    with pytest.raises(NotFound, match="muomni rebuild"):
        files.load(tmp_path / "gone", bytes=1, checksum="")


def test_a_directory_in_the_place_of_the_file_is_refused(tmp_path):
    (tmp_path / "folder").mkdir()
    refused(tmp_path / "folder", bytes=1, checksum="")


def test_a_flipped_bit_anywhere_is_refused(good, tmp_path):
    data, checksum = good
    rng = np.random.default_rng(7)
    # Every byte before FAISS's, its header, and some of the rest.
    places = [*range(HEAD), *range(HEAD, len(data), len(data) // 300)]
    path = tmp_path / "flipped"
    for place in places:
        altered = bytearray(data)
        altered[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(altered)
        refused(path, bytes=len(data), checksum=checksum)


def test_a_file_cut_anywhere_is_refused(good, tmp_path):
    data, checksum = good
    rng = np.random.default_rng(8)
    path = tmp_path / "cut"
    for length in [0, 1, 7, 8, 15, 16, 17, *rng.integers(17, len(data), 200).tolist()]:
        path.write_bytes(data[:length])
        refused(path, bytes=len(data), checksum=checksum)


def test_a_file_is_summed_whole_piece_by_piece(good, tmp_path, monkeypatch):
    data, checksum = good
    assert checksum == f"{zlib.crc32(data):08x}"
    monkeypatch.setattr(durable, "READ_BYTES", 1_000)
    path = tmp_path / "index"
    path.write_bytes(data)
    assert files.load(path, bytes=len(data), checksum=checksum).rows == 500
    for place in (100, 1_500, len(data) - 1):  # in the first piece, the second, the last
        damaged = bytearray(data)
        damaged[place] ^= 1
        path.write_bytes(damaged)
        refused(path, bytes=len(data), checksum=checksum)
    few = next(bytes([n]) for n in range(256) if zlib.crc32(bytes([n])) < 1 << 28)
    assert durable.checksum([few]).startswith("0")
    assert len(durable.checksum([few])) == 8


def test_a_file_of_an_earlier_version_is_held_against_its_sha256(good, tmp_path):
    data, _ = good
    path = tmp_path / "index"
    path.write_bytes(data)
    checksum = hashlib.sha256(data).hexdigest()
    assert files.load(path, bytes=len(data), checksum=checksum).rows == 500
    damaged = bytearray(data)
    damaged[len(data) // 2] ^= 1
    path.write_bytes(damaged)
    refused(path, bytes=len(data), checksum=checksum)


def test_a_file_cut_anywhere_is_refused_even_with_a_checksum_that_fits(good, tmp_path):
    data, _ = good
    rng = np.random.default_rng(9)
    path = tmp_path / "cut"
    for length in [0, 1, 7, 8, 15, 16, 17, *rng.integers(17, len(data), 100).tolist()]:
        refused(path, **write(path, data[:length]))


def test_a_longer_file_is_refused(good, tmp_path):
    data, checksum = good
    (tmp_path / "long").write_bytes(data + b"\0")
    refused(tmp_path / "long", bytes=len(data), checksum=checksum)


def test_a_foreign_file_is_refused_even_with_a_checksum_that_fits(tmp_path):
    for number, foreign in enumerate((b"", b"SQLite format 3\0" * 9, os.urandom(5_000))):
        path = tmp_path / str(number)
        refused(path, **write(path, foreign))


@pytest.mark.parametrize(
    "params",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"{}",
        b'{"kind": "pq4"}',
        b'{"kind": "pq4", "order": 7}',
        b"[" * 2_000,
        b"\xff\xfe",
        b" " * 70_000,
    ],
)
def test_parameters_that_make_no_sense_are_refused(good, tmp_path, params):
    path = tmp_path / "forged"
    refused(path, **write(path, with_params(good[0], params)))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("kind", "hnsw"),
        ("rows", 499),
        ("rows", 1 << 60),
        ("rows", "500"),
        ("order", list(range(255))),
        ("order", [0, *range(255)]),
        ("order", [1.5, *range(1, 256)]),
        ("order", [None] * 256),
        ("order", [True, False, *range(2, 256)]),
        ("order", [-1, *range(1, 256)]),
    ],
)
def test_forged_parameters_are_refused(good, tmp_path, name, value):
    params = json.dumps({**params_of(good[0]), name: value}).encode()
    path = tmp_path / "forged"
    refused(path, **write(path, with_params(good[0], params)))


def test_a_forged_length_of_the_parameters_is_refused(good, tmp_path):
    path = tmp_path / "forged"
    for length in (0, 1, 1 << 20, (1 << 64) - 1):
        forged = good[0][: len(files.MAGIC)] + length.to_bytes(8, "little") + good[0][HEAD:]
        refused(path, **write(path, forged))


def test_an_index_of_another_kind_inside_a_good_file_is_refused(good, tmp_path):
    flat = faiss_index.faiss.IndexFlatIP(256)
    flat.add(np.eye(256, dtype=np.float32)[:3])
    end = HEAD + int.from_bytes(good[0][len(files.MAGIC) : HEAD], "little")
    forged = good[0][:end] + faiss_index.faiss.serialize_index(flat).tobytes()
    path = tmp_path / "forged"
    assert "another kind" in refused(path, **write(path, forged))


def test_a_loaded_index_keeps_nothing_of_the_bytes_that_it_came_from(index, rng):
    data = np.frombuffer(index.to_bytes(), np.uint8).copy()
    loaded = faiss_index.FourBitScan.from_bytes(data, index.order)
    data[:] = 255
    for query in normalise(rng.standard_normal((5, 256))):
        assert np.array_equal(loaded.search(query, 20), index.search(query, 20))
