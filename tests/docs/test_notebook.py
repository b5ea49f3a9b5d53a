"""The notebook in examples/ runs from top to bottom, and what its cells end with can be shown."""

from __future__ import annotations

import ast
import json
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "examples/tour.ipynb"


def run_cell(source: str, names: dict[str, Any], where: str) -> Any:
    """Run a cell; return what its last line is worth, as a notebook would show it."""
    tree = ast.parse(source, where)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, where, "exec"), names)
    if not isinstance(last, ast.Expr):
        return None
    return eval(compile(ast.Expression(last.value), where, "eval"), names)


@pytest.mark.slow
def test_the_notebook_runs_from_top_to_bottom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notebook = json.loads(NOTEBOOK.read_text())
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    monkeypatch.chdir(tmp_path / "examples")
    names: dict[str, Any] = {"__name__": "__main__"}
    shown = {}
    for cell in notebook["cells"]:
        if cell["cell_type"] != "code":
            continue
        assert (cell["outputs"], cell["execution_count"]) == ([], None)  # committed clean
        if "pandas" in cell["metadata"].get("tags", ()) and find_spec("pandas") is None:
            continue
        value = run_cell("".join(cell["source"]), names, cell["id"])
        page = getattr(value, "_repr_html_", lambda: None)()
        shown[cell["id"]] = page if page is not None else repr(value)
    pages = [page for page in shown.values() if "muomni-hits" in page]
    assert len(pages) == 5
    assert all("not shown" not in page for page in pages)
    assert any("<audio" in page for page in pages)
    assert any("<img" in page for page in pages)
    # What the text between the cells says of them.
    assert names["report"].failed == 0
    assert names["hits"][0].key.startswith("animals/dog") or names["hits"][0].key.startswith("dog")
    assert names["vectors"].shape == (names["table"].num_rows, 256)
