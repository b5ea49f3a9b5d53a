"""The scripts in `benchmarks/` fit the library that they measure."""

from __future__ import annotations

import gc
import runpy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from muomni_search.encoders.base.image import FEATURES
from muomni_search.encoders.base.model import packaged_directory
from muomni_search.encoders.base.session import Tower

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SCRIPTS = sorted(path.name for path in BENCHMARKS.glob("*.py"))
WITH_OPTIONS = [name for name in SCRIPTS if "ArgumentParser(" in (BENCHMARKS / name).read_text()]
# What only the benchmarks need, and an installation for the tests may lack.
OPTIONAL = {"map.py": "playwright", "page.py": "playwright"}


def run(monkeypatch: pytest.MonkeyPatch, name: str, *arguments: str, as_name: str) -> None:
    """Run a script in this process; what it imports from beside it is forgotten again."""
    if name in OPTIONAL:
        pytest.importorskip(OPTIONAL[name])
    path = str(BENCHMARKS / name)
    before = set(sys.modules)
    monkeypatch.setattr(sys, "argv", [path, *arguments])
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])
    # What other tests left behind is not to be gone through: a soak collects garbage every time.
    gc.freeze()
    try:
        runpy.run_path(path, run_name=as_name)
    finally:
        gc.unfreeze()
        for one in set(sys.modules) - before:
            file = getattr(sys.modules[one], "__file__", None)
            if file and Path(file).parent == BENCHMARKS:
                del sys.modules[one]


@pytest.mark.parametrize("name", sorted(set(SCRIPTS) - set(WITH_OPTIONS)))
def test_what_has_no_options_can_be_imported(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run(monkeypatch, name, as_name="imported")


@pytest.mark.parametrize(
    ("name", "widths", "inputs"),
    [
        ("image.onnx", [FEATURES, 1000], {"image": np.full((1, 3, 224, 224), 0.3, np.float32)}),
        ("text.onnx", [384], {name: np.ones((2, 5), np.int64) for name in ("ids", "mask")}),
    ],
)
def test_towers_op_by_op_give_what_the_runtime_gives(
    name: str,
    widths: list[int],
    inputs: dict[str, NDArray[Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])
    eager = runpy.run_path(str(BENCHMARKS / "encoders.py"))["Eager"]
    path = packaged_directory() / name
    expected = Tower(path, inputs=list(inputs), widths=widths, threads=1)(**inputs)
    for found, right in zip(eager(path)(**inputs), expected, strict=True):
        assert np.allclose(found, right, atol=1e-3)


@pytest.mark.parametrize("name", WITH_OPTIONS)
def test_every_script_says_what_it_can_be_told(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        run(monkeypatch, name, "--help", as_name="__main__")
    assert end.value.code == 0
    assert capsys.readouterr().out.startswith("usage: ")


@pytest.mark.parametrize(
    ("name", "arguments", "told"),
    [
        (
            "filters.py",
            ["--rows", "10000", "--queries", "4"],
            "| far | 0.1% | exact | 1.0000 | 0 |",
        ),
        (
            "ingest.py",
            ["--rows", "300", "--queries", "10", "--rounds", "1", "--files", "0"],
            "| a warm query, k = 10 |",
        ),
        ("align.py", ["--pairs", "60"], "| 60 | with `--refine` |"),
        ("soak.py", ["--operations", "400", "--items", "100"], "verify: 0 faults"),
        ("duplicates.py", ["--rows", "300"], "300 rows of 256"),
        ("path.py", ["--rows", "300", "--queries", "5"], "300 rows: "),
        ("busy.py", ["--rows", "2000"], "| 1 | muomni_search's |"),
        ("index.py", ["--rows", "2000", "--queries", "12"], "| 0.1% |"),
        ("cold.py", ["--rows", "200", "--rounds", "1"], "| all |"),
        (
            "batch.py",
            ["--rows", "300", "--queries", "20", "--rounds", "1"],
            "| 256 |",
        ),
    ],
)
def test_a_tiny_run_gets_to_its_end(
    name: str,
    arguments: list[str],
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run(monkeypatch, name, *arguments, as_name="__main__")
    assert told in capsys.readouterr().out
