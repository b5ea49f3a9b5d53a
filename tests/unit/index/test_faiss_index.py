from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event, Thread
from unittest.mock import patch

import numpy as np
import pytest
import vector_helpers
from vector_helpers import rows_of

from muomni_search.cli.main import main
from muomni_search.cores import WAITING
from muomni_search.errors import CorruptData
from muomni_search.index import faiss_index, planner
from muomni_search.index.exact import MARGIN, exact_top_rows
from muomni_search.index.faiss_index import FourBitScan
from muomni_search.items import DIM
from muomni_search.vectors import normalise

IMPORT = """
import json, os
import numpy
from threadpoolctl import threadpool_info
def cores():
    return {"faiss" in one["filepath"]: one["architecture"] for one in threadpool_info()
            if one["internal_api"] == "openblas"}
before = cores()
from muomni_search.index import faiss_index
print(json.dumps({
    "variable": os.environ.get("OPENBLAS_CORETYPE"),
    "wanted": faiss_index._processor_core(),
    "faiss": faiss_index.blas_core(),
    "numpy": [before[False], cores()[False]],
}))
"""


def imported(core: str | None = None) -> dict:
    """Import FAISS in a fresh process and return what it found."""
    environment = {name: value for name, value in os.environ.items() if "CORETYPE" not in name}
    if core is not None:
        environment["OPENBLAS_CORETYPE"] = core
    done = subprocess.run(
        [sys.executable, "-c", IMPORT], check=True, stdout=subprocess.PIPE, env=environment
    )
    return json.loads(done.stdout)


def test_faiss_multiplies_for_this_processor_and_nothing_else_notices():
    seen = imported()
    if seen["wanted"] is None:
        pytest.skip("no processor that OpenBLAS would have to be told of")
    assert seen["faiss"].upper() == seen["wanted"]
    assert seen["variable"] is None
    assert seen["numpy"][0] == seen["numpy"][1]


def test_a_core_type_that_the_user_set_is_respected_and_left():
    seen = imported("Haswell")
    assert seen["variable"] == "Haswell"
    assert seen["faiss"].upper() == "HASWELL"


@pytest.mark.parametrize(
    ("own", "told"),
    [
        ({}, "GOMP_SPINCOUNT = '3000'"),
        ({"GOMP_SPINCOUNT": "77"}, "GOMP_SPINCOUNT = '77'"),
        ({"OMP_WAIT_POLICY": "active"}, "OMP_WAIT_POLICY = 'ACTIVE'"),
    ],
)
def test_threads_wait_for_one_another_as_the_user_says_or_not_for_long(own, told):
    code = (
        "import json, os; from muomni_search.index import faiss_index; "
        "print(json.dumps({**os.environ}))"
    )
    kept = {name: value for name, value in os.environ.items() if name not in WAITING}
    done = subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        capture_output=True,
        text=True,
        env={**kept, "OMP_DISPLAY_ENV": "verbose", **own},
    )
    if "GOMP_SPINCOUNT" not in done.stderr:
        pytest.skip("FAISS has another OpenMP than GNU's here")
    assert told in done.stderr
    left = json.loads(done.stdout)
    assert {name: left[name] for name in left if name in WAITING} == own


def test_the_command_says_how_threads_wait_before_pytorch_is_loaded(monkeypatch, capsys):
    for name in WAITING:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "argv", ["muomni", "--version"])
    with pytest.raises(SystemExit):
        main()
    assert os.environ.pop("GOMP_SPINCOUNT") == "3000"
    assert capsys.readouterr().out.startswith("muomni")


def test_only_one_module_imports_faiss():
    package = Path(faiss_index.__file__).parents[1]
    importers = [
        path.name
        for path in package.rglob("*.py")
        if re.search(r"^\s*(import|from) faiss\b", path.read_text(encoding="utf-8"), re.MULTILINE)
    ]
    assert importers == ["faiss_index.py"]


def test_pairs_are_multiplied_where_they_lie(tmp_path):
    rng = np.random.default_rng(1)
    np.save(tmp_path / "rows.npy", rows_of(500, 1))
    rows = np.load(tmp_path / "rows.npy", mmap_mode="r")
    queries = np.asfortranarray(rows_of(7, 2))
    asked, numbers = rng.integers(0, 7, 2_000), rng.integers(-1, 500, 2_000)
    found = faiss_index.products_of_pairs(queries, asked[::2], rows, numbers[::2])
    expected = np.vecdot(queries[asked[::2]].astype(np.float64), rows[numbers[::2]])
    is_none = numbers[::2] < 0
    assert found.dtype == np.float32
    assert is_none.any()
    assert np.all(found[is_none] == -np.inf)
    assert np.abs(found - expected)[~is_none].max() < MARGIN / 4
    nothing = np.empty(0, np.int64)
    assert faiss_index.products_of_pairs(queries, nothing, rows, nothing).shape == (0,)
    faiss_index.use_threads(2)
    faiss_index.products_of_pairs(queries, asked[:1], rows, numbers[:1])
    assert faiss_index.faiss.omp_get_max_threads() == 1
    for bad in ((queries[:, :9], asked, rows), (queries, asked[1:], rows)):
        with pytest.raises(ValueError, match=r"\(2000,\)"):
            faiss_index.products_of_pairs(*bad, numbers)
    with pytest.raises(CorruptData, match="a row is asked for that is not there"):
        faiss_index.products_of_pairs(queries, np.zeros(2, np.int64), rows, np.array([499, 500]))


def test_the_order_pairs_the_strongest_dimension_with_the_weakest():
    order = faiss_index.interleaved(np.array([5.0, 1.0, 4.0, 2.0, 6.0, 3.0], np.float32))
    assert order.tolist() == [4, 1, 0, 3, 2, 5]


def test_the_order_is_a_permutation_when_variances_are_equal():
    order = faiss_index.interleaved(np.zeros(256, np.float32))
    assert sorted(order.tolist()) == list(range(256))


def test_the_number_of_threads_holds_for_the_thread_that_set_it():
    faiss_index.use_threads(1)
    seen = []

    def other():
        faiss_index.use_threads(2)
        seen.append(faiss_index.faiss.omp_get_max_threads())

    thread = Thread(target=other)
    thread.start()
    thread.join()
    assert seen == [2]
    assert faiss_index.faiss.omp_get_max_threads() == 1


# ---- parts ---------------------------------------------------------------------------------


@pytest.fixture
def divide(monkeypatch) -> Callable[[np.ndarray, int], FourBitScan]:
    """Build an index of rows in so many parts."""
    monkeypatch.setattr(faiss_index, "usable_cores", lambda: 8)

    def build(rows: np.ndarray, parts: int) -> FourBitScan:
        monkeypatch.setattr(faiss_index, "PART_ROWS", len(rows) // parts)
        index = FourBitScan.build(rows)
        assert len(index._parts) == parts
        return index

    return build


@pytest.fixture
def divided(divide) -> FourBitScan:
    """3,000 rows in three parts."""
    return divide(rows_of(3_000, 1), 3)


@pytest.fixture
def pool(monkeypatch):
    """The helpers, but for this test only."""
    with ThreadPoolExecutor(3) as pool:
        monkeypatch.setattr(faiss_index, "helpers", lambda: pool)
        yield pool


def test_as_many_parts_as_cores_are_made_where_there_are_rows_enough(divided, monkeypatch):
    assert (divided.rows, divided.codes) == (3_000, 64)
    for cores, rows, parts in ((2, 1_000, 2), (2, 1_501, 1), (16, 100, 8), (1, 100, 1)):
        monkeypatch.setattr(faiss_index, "usable_cores", lambda cores=cores: cores)
        monkeypatch.setattr(faiss_index, "PART_ROWS", rows)
        index = FourBitScan.build(rows_of(3_000, 1))
        assert (index.rows, len(index._parts)) == (3_000, parts)


@pytest.mark.parametrize("fetch", [1, 7, 200, 3_000, 9_000])
@pytest.mark.parametrize("lie", ["by chance", "together"])
def test_parts_propose_what_one_scan_does(divide, pool, fetch, lie):
    rows = rows_of(3_000, 1)
    if lie == "together":
        rows = rows[np.argsort(rows @ rows[0])]
    whole, divided = divide(rows, 1), divide(rows, 3)
    queries = np.concatenate([rows_of(8, 2), rows[-1:]])
    many = divided.search_many(queries, fetch)
    assert many.shape == (9, min(fetch, 3_000))
    for query, own in zip(queries, many, strict=True):
        found = divided.search(query, fetch)
        assert found.tolist() == own.tolist()
        assert len(set(found.tolist())) == len(found)
        # As near by their codes; of those that are as near as the last one it may take others.
        near, numbers = (one[0] for one in whole._scan(0, query[None, whole.order], 3_000))
        by_row = np.empty(3_000, np.float32)
        by_row[numbers] = near
        assert by_row[found].tolist() == near[:fetch].tolist()


def test_a_run_that_one_part_holds_is_found_whole(divide, pool):
    rows = rows_of(3_000, 1)
    rows[1_100:1_700] = rows[0]
    dead = np.arange(1_100, 1_600)
    expected = exact_top_rows(rows[0], rows, k=5, dead=dead)
    for parts in (1, 3):
        index = divide(rows, parts)
        with patch.object(planner, "RUNAWAY_SHARE", 1.0):
            found = planner.top_rows(rows[0], rows, k=5, dead=dead, index=index, fetch=50)
        assert (found.how, found.rows.tolist()) == ("ann", expected.rows.tolist())


def test_who_finds_the_helpers_busy_scans_all_parts_itself(divided, pool):
    query, busy = rows_of(1, 2)[0], Event()
    expected = divided.search(query, 50).tolist()
    waiting = [pool.submit(busy.wait) for _ in range(3)]
    found = divided.search(query, 50)
    busy.set()
    assert all(one.result() for one in waiting)
    assert found.tolist() == expected


def test_only_one_query_at_a_time_is_divided(divided, monkeypatch):
    def divide(*_):
        raise AssertionError("it is divided")

    expected = divided.search(rows_of(1, 2)[0], 50).tolist()
    monkeypatch.setattr(FourBitScan, "_search_divided", divide)
    with faiss_index.SCANNING as is_alone:
        assert is_alone
        assert divided.search(rows_of(1, 2)[0], 50).tolist() == expected
    for _ in range(2):  # an error leaves nobody counted
        with pytest.raises(AssertionError, match="divided"):
            divided.search(rows_of(1, 2)[0], 50)


def test_parts_are_written_and_read(divided, pool):
    data = np.frombuffer(divided.to_bytes(), np.uint8)
    loaded = FourBitScan.from_bytes(data, divided.order)
    assert (loaded.rows, len(loaded._parts)) == (3_000, 3)
    query = rows_of(1, 2)[0]
    assert loaded.search(query, 50).tolist() == divided.search(query, 50).tolist()
    with pytest.raises(ValueError, match="cannot read"):
        FourBitScan.from_bytes(data[:-1], divided.order)
    faiss = faiss_index.faiss
    empty = faiss.clone_index(divided._parts[0])
    empty.reset()
    more_codes = FourBitScan.build(rows_of(300, 1), 128)._parts[0]
    for other in (empty, more_codes):
        forged = np.concatenate([data, faiss.serialize_index(other)])
        with pytest.raises(ValueError, match="another kind"):
            FourBitScan.from_bytes(forged, divided.order)


FORKED = """
import gc, os, signal, sys, time, weakref
import numpy as np
sys.path.insert(0, sys.argv[1])
import vector_helpers
from vector_helpers import rows_of
from muomni_search.index import faiss_index
faiss_index.PART_ROWS, faiss_index.usable_cores = 900, lambda: 4
index = faiss_index.FourBitScan.build(rows_of(3_000, 1))
query = rows_of(1, 2)[0]
found = index.search(query, 50).tolist()
time.sleep(0.2)  # until the helpers have let go of it
child = os.fork()
if child == 0:
    signal.alarm(60)
    is_found = index.search(query, 50).tolist() == found
    # Its own helpers keep nothing of what they scanned.
    kept = weakref.ref(index)
    faiss_index.helpers().shutdown()
    del index
    gc.collect()
    os._exit(0 if is_found and kept() is None else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_child_of_a_fork_gets_helpers_of_its_own():
    helpers = Path(vector_helpers.__file__).parent
    subprocess.run([sys.executable, "-c", FORKED, str(helpers)], check=True, timeout=120)


ENDING = """
import atexit, sys
sys.path.insert(0, sys.argv[1])
from vector_helpers import rows_of
from muomni_search.index import faiss_index
faiss_index.PART_ROWS, faiss_index.usable_cores = 900, lambda: 4
index = faiss_index.FourBitScan.build(rows_of(3_000, 1))
query = rows_of(1, 2)[0]
atexit.register(lambda: print(len(index.search(query, 50))))
"""


@pytest.mark.parametrize("before", ["", "index.search(query, 50)"], ids=["cold", "warm"])
def test_a_query_is_answered_while_the_interpreter_ends(before):
    helpers = Path(vector_helpers.__file__).parent
    command = [sys.executable, "-c", ENDING + before, str(helpers)]
    done = subprocess.run(command, check=True, timeout=120, capture_output=True)
    assert (done.stdout.strip(), done.stderr) == (b"50", b"")


def test_where_no_thread_can_be_begun_all_parts_are_scanned_and_nothing_is_kept(
    divided, monkeypatch
):
    def refuse(_):
        raise RuntimeError("can't start new thread")

    query = rows_of(1, 2)[0]
    expected = divided.search_many(query[None], 50)[0].tolist()
    faiss_index.helpers.cache_clear()
    monkeypatch.setattr(Thread, "start", refuse)
    assert divided.search(query, 50).tolist() == expected
    assert faiss_index.helpers.cache_info().currsize == 0


@pytest.mark.parametrize("cores", [1, 2, 3, 5])
@pytest.mark.parametrize("codes", [32, 64])
def test_codes_that_are_learned_on_several_cores_are_those_of_faiss(monkeypatch, cores, codes):
    rows = normalise(rows_of(3_000, 4) * np.linspace(3, 0.1, DIM))
    monkeypatch.setattr(faiss_index, "usable_cores", lambda: cores)
    index = FourBitScan.build(rows, codes)
    whole = faiss_index.faiss.ProductQuantizer(DIM, codes, 4)
    whole.train(np.take(rows, index.order, axis=1))
    learned = index._parts[0].pq.centroids
    to_array = faiss_index.faiss.vector_to_array
    assert np.array_equal(to_array(learned), to_array(whole.centroids))
