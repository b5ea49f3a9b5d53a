from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from threading import Thread

import numpy as np
import pytest

from muomni_search.index import faiss_index

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


def test_only_one_module_imports_faiss():
    package = Path(faiss_index.__file__).parents[1]
    importers = [
        path.name
        for path in package.rglob("*.py")
        if re.search(r"^\s*(import|from) faiss\b", path.read_text(encoding="utf-8"), re.MULTILINE)
    ]
    assert importers == ["faiss_index.py"]


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
