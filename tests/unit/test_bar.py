"""The bar of a long job says how far it is, how fast, and how long it takes yet."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from muomni_search import bar


def test_a_bar_says_how_far_how_fast_and_how_much_time_is_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now, said = 0.0, io.StringIO()
    terminal = Console(
        file=said, width=120, force_terminal=True, force_interactive=True, get_time=lambda: now
    )
    monkeypatch.setattr(bar, "Console", lambda **_: terminal)
    monkeypatch.setattr(bar, "REDRAW_SECONDS", -1.0)
    with bar.Bar("items", lambda: None) as shown:
        shown.start(1_000, "encoding")
        for _ in range(10):
            now += 2.0
            shown.advance(10)
        shown.finish()
    for told in ("encoding", "100/1000", "5.0 items/s", "0:03:00"):
        assert told in said.getvalue()
