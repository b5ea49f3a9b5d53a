"""Shell completion, as docs/how-to/completion.md sets it up."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs/how-to/completion.md"
BIN = Path(sys.executable).parent


def complete(words: str, position: int) -> list[str]:
    """Return what the completion of a line answers bash: ``type,value`` a line."""
    done = subprocess.run(
        [sys.executable, "-m", "muomni_search"],
        env={
            **os.environ,
            "_MUOMNI_COMPLETE": "bash_complete",
            "COMP_WORDS": words,
            "COMP_CWORD": str(position),
        },
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()


def test_commands_are_completed() -> None:
    assert complete("muomni sea", 1) == ["plain,search"]


def test_options_and_choices_are_completed() -> None:
    assert complete("muomni search --mod", 2) == ["plain,--modality", "plain,--model"]
    assert complete("muomni search --modality i", 3) == ["plain,image"]


def test_the_collection_is_completed_as_a_directory() -> None:
    assert complete("muomni search -c ", 3) == ["dir,"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_page_tells_how_to_switch_it_on(shell: str) -> None:
    line = f"_MUOMNI_COMPLETE={shell}_source muomni"
    assert line in PAGE.read_text(encoding="utf-8")


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_takes_the_line_of_the_page() -> None:
    script = """
        eval "$(_MUOMNI_COMPLETE=bash_source muomni)"
        COMP_WORDS=(muomni nei) COMP_CWORD=1
        _muomni_completion muomni
        echo "${COMPREPLY[@]}"
    """
    done = subprocess.run(
        ["bash", "-c", script],
        env={**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["neighbors"]
