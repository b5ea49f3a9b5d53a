"""Self-contained HTML pages: one file, no request to anywhere, nothing runs but our own script."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from muomni_search import durable
from muomni_search.store.sqlite import disk_errors

if TYPE_CHECKING:
    from jinja2 import Environment

__all__ = ["HTML_HEAD", "data_json", "render_fragment", "write_html"]

# What such a page begins with; a file that begins otherwise is never replaced by one.
HTML_HEAD = b"<!doctype html"


def write_html(
    path: str | Path,
    template: str,
    *,
    styles: tuple[str, ...],
    script: str | None = None,
    **context: Any,
) -> None:
    """Render a template to a file that has its name only when it is whole.

    The template finds ``style``, ``script`` and their hashes for its content security policy,
    which is what forbids everything else.

    Args:
        path: The file; a page that is there is replaced.
        template: Its name in ``templates/``.
        styles: Style sheets there, in order.
        script: A script there.
        context: What the template calls; text in it is escaped.

    Raises:
        Conflict: A file of another kind has this name.
        MuomniError: It cannot be written.
    """
    target = Path(path)
    with disk_errors(target):
        durable.check_kind(target, HTML_HEAD)
    environment = _environment()
    own = {
        "style": _style(environment, styles),
        "script": _source(environment, script) if script else "",
    }
    chunks = environment.get_template(template).generate(
        **{name: Markup(text) for name, text in own.items()},  # noqa: S704  our own files
        **{f"{name}_hash": _digest(text) for name, text in own.items()},
        **context,
    )
    with (
        disk_errors(target),
        durable.whole_file(target) as partial,
        # The name of a file may hold bytes that are no character.
        partial.open("w", encoding="utf-8", errors="backslashreplace") as file,
    ):
        file.writelines(chunks)


def render_fragment(template: str, *, scope: str, styles: tuple[str, ...], **context: Any) -> str:
    """Render a template that stands in somebody else's page, with a style of its own.

    Args:
        template: Its name in ``templates/``.
        scope: The class of the element in which the styles hold, and nowhere else.
        styles: Style sheets there, in order.
        context: What the template calls; text in it is escaped.
    """
    environment = _environment()
    # What the sheets say of a page, they say of the element.
    style = _style(environment, styles).replace(":root", "&")
    return environment.get_template(template).render(
        style=Markup(f".{scope} {{\n{style}}}"),  # noqa: S704  our own files
        **context,
    )


def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader("muomni_search", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _style(environment: Environment, names: tuple[str, ...]) -> str:
    return "".join(_source(environment, name) for name in names)


def _source(environment: Environment, name: str) -> str:
    if environment.loader is None:
        raise TypeError("an environment without templates")
    return environment.loader.get_source(environment, name)[0]


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def data_json(value: Any) -> Markup:
    """Return JSON that may stand in a ``script`` element whatever its texts are.

    No ``<`` is left that could end the element or begin a comment in it.
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    # Half a character as the escape that JSON has for it.
    text = re.sub("[<>&\u2028\u2029\ud800-\udfff]", lambda one: f"\\u{ord(one[0]):04x}", text)
    return Markup(text)  # noqa: S704  escaped above
