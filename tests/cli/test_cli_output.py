"""Tables on terminals of any width."""

from __future__ import annotations

import pytest

from muomni_search.cli.output import print_table

NAMES = ("model", "asking", "asked", "value")
ROWS = [("base", "text", "image", "0.862 [0.78, 0.93]"), ("own", "audio", "any", "−0.696 [−0.87]")]


@pytest.mark.parametrize("width", [20, 30, 40, 80, 200])
def test_no_value_is_lost_however_narrow_the_terminal(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    print_table(NAMES, ROWS, right=("value",))
    shown = capsys.readouterr().out
    for row in ROWS:
        for cell in row:
            assert cell in shown.replace("\n", " " if width >= 40 else "")
    assert all(name in shown for name in NAMES)
    assert "…" not in shown


def test_columns_that_may_give_way_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    print_table(("key", "text"), [("a", "x" * 100)], cut=("text",))
    assert "…" in capsys.readouterr().out
