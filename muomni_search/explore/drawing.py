"""A map as a file: a page to explore (HTML), or a picture to print (PNG, SVG)."""

from __future__ import annotations

import base64
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from muomni_search import durable
from muomni_search.collection import Collection
from muomni_search.errors import InvalidInput
from muomni_search.explore.colours import SCALE
from muomni_search.explore.map import Map, Point
from muomni_search.extras import load_extra
from muomni_search.figures import WAVE_BARS, Figures, Picture, Sound, clip, facts
from muomni_search.items import Modality
from muomni_search.pages import HTML_HEAD, data_json, write_html
from muomni_search.progress import Progress, Silent
from muomni_search.store.sqlite import disk_errors

__all__ = ["SOUNDS", "THUMBNAILS", "check_map_output", "write_map"]

# A thousand thumbnails make a page of some 5 MB, a hundred sounds another 5 MB.
THUMBNAILS = 1_000
SOUNDS = 100
THUMBNAIL_PIXELS = 128
SOUND_SECONDS = 8.0
TITLE_CHARACTERS = 80
FACT_CHARACTERS = 120
FACTS = 8
METHOD_NAMES = {"umap": "UMAP", "tsne": "t-SNE", "pca": "PCA"}
# How matplotlib calls our shapes.
MARKERS = {"circle": "o", "diamond": "D", "triangle": "^", "square": "s", "ring": "o"}
# By which they look equally large.
AREAS = {"circle": 1.0, "diamond": 0.8, "triangle": 1.35, "square": 0.9, "ring": 0.9}
HEADS = {".html": HTML_HEAD, ".png": durable.PNG_HEAD, ".svg": b"<?xml"}
# What no font draws and no XML holds.
UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")


def check_map_output(collection: Collection, path: str | Path) -> Path:
    """Return a path that a map may be written to.

    Raises:
        InvalidInput: No map is written with this suffix, or it is one of the collection's files.
        Conflict: A file of another kind has this name.
        NotFound: There is no folder for it.
    """
    target = Path(path)
    if target.suffix.lower() not in HEADS:
        raise InvalidInput(
            f"{target} is no name of a map", hint=f"call it one of …{', …'.join(HEADS)}"
        )
    collection.check_output(target)
    with disk_errors(target):
        durable.check_kind(target, HEADS[target.suffix.lower()])
    return target


def write_map(
    drawn: Map,
    path: str | Path,
    *,
    thumbnails: int = THUMBNAILS,
    sounds: int = SOUNDS,
    progress: Progress | None = None,
) -> None:
    """Write a map to a file, whose suffix says what it is: ``.html``, ``.png`` or ``.svg``.

    The file has its name only when it is whole. A page needs no other file and asks nothing of
    any network. The same map gives the same file to the byte.

    Args:
        drawn: The map.
        path: The file; a map that is there is replaced.
        thumbnails: How many pictures a page shows; of the others it names the file.
        sounds: How many sounds a page plays; of the others it names the file.
        progress: Told of each thumbnail and sound.

    Raises:
        InvalidInput: No map is written with this suffix.
        Conflict: A file of another kind has this name.
        NotFound: matplotlib, which pictures need, is not installed.
        MuomniError: It cannot be written.
    """
    target = Path(path)
    suffix = target.suffix.lower()
    if suffix == ".html":
        _write_page(drawn, target, thumbnails, sounds, progress or Silent())
    elif suffix in HEADS:
        with disk_errors(target):
            durable.check_kind(target, HEADS[suffix])
        with disk_errors(target), durable.whole_file(target) as partial:
            _write_picture(drawn, partial, suffix[1:])
    else:
        raise InvalidInput(
            f"{target} is no name of a map", hint=f"call it one of …{', …'.join(HEADS)}"
        )


def _told(drawn: Map) -> list[str]:
    """Say in a few words each what a map shows, and how it was made."""
    count, found = len(drawn.points), drawn.found
    parts = [f"{count:,} points" if count != 1 else "1 point"]
    if found > count:
        parts[0] = f"a sample of {count:,} of {found:,} points"
    parts.append(METHOD_NAMES[drawn.method] + (", modalities centred" if drawn.is_centred else ""))
    parts.append(f"seed {drawn.seed}")
    return parts


# ---- the page ------------------------------------------------------------------------------------


def _write_page(drawn: Map, target: Path, thumbnails: int, sounds: int, progress: Progress) -> None:
    write_html(
        target,
        "map.html.j2",
        styles=("base.css", "map.css"),
        script="map.js",
        title=clip(drawn.title, TITLE_CHARACTERS),
        told=_told(drawn),
        count=len(drawn.points),
        data=data_json(_data(drawn, thumbnails, sounds, progress)),
    )


def _data(drawn: Map, thumbnails: int, sounds: int, progress: Progress) -> dict[str, Any]:
    """Return what the page's script knows of a map."""
    points, colours = drawn.points, drawn.colours
    pictures, players = _media(drawn, thumbnails, sounds, progress)
    return {
        "places": _packed(drawn.places, "<f4"),
        "group": _packed(colours.group, "u1"),
        "rgb": _packed(colours.rgb, "u1"),
        "field": clip(colours.field, TITLE_CHARACTERS),
        "groups": [
            {"name": one.name, "colour": one.colour, "shape": one.shape, "count": one.count}
            for one in colours.groups
        ],
        "scale": colours.scale
        and {
            "low": f"{colours.scale.low:.10g}",
            "high": f"{colours.scale.high:.10g}",
            "stops": SCALE,
        },
        "keys": [point.key for point in points],
        "modalities": [str(point.modality) for point in points],
        "texts": [point.text for point in points],
        "sources": [point.source for point in points],
        "facts": [_facts(point) for point in points],
        "notes": [_note(point) for point in points],
        "pictures": pictures,
        "sounds": players,
        "bars": WAVE_BARS,
        "query": None
        if drawn.query_place is None
        else {
            "place": drawn.query_place.tolist(),
            "title": clip(drawn.query_title, TITLE_CHARACTERS),
        },
    }


def _packed(values: NDArray[Any], kind: str) -> str:
    return base64.b64encode(np.ascontiguousarray(values, kind).tobytes()).decode()


def _facts(point: Point) -> list[tuple[str, str]]:
    return [(name, clip(value, FACT_CHARACTERS)) for name, value in facts(point.metadata)[:FACTS]]


def _note(point: Point) -> str:
    """Say where in its item a point lies, and what a query made of it."""
    parts = []
    if point.rank is not None:
        parts.append(f"rank {point.rank}, score {point.score:.2f}")
    if point.span is not None and point.span.unit == "ms":
        parts.append(f"{point.span.start / 1000:.1f}–{point.span.end / 1000:.1f} s")
    elif point.span is not None:
        parts.append(f"characters {point.span.start}–{point.span.end}")
    return " · ".join(parts)


def _media(
    drawn: Map, thumbnails: int, sounds: int, progress: Progress
) -> tuple[dict[int, list[Any]], dict[int, list[Any]]]:
    """Return thumbnails and players by the number of their point."""
    figures = Figures(pixels=THUMBNAIL_PIXELS, seconds=SOUND_SECONDS)
    wanted = [
        *_wanted(drawn, Modality.IMAGE, thumbnails),
        *_wanted(drawn, Modality.AUDIO, sounds),
    ]
    pictures: dict[int, list[Any]] = {}
    players: dict[int, list[Any]] = {}
    progress.start(len(wanted), "pictures and sounds")
    for number in wanted:
        point = drawn.points[number]
        figure = figures.of_file(point.modality, point.source, point.span)
        if isinstance(figure, Picture):
            pictures[number] = [figure.uri, figure.width, figure.height, figure.is_cutout]
        elif isinstance(figure, Sound):
            players[number] = [figure.uri, figure.wave, figure.told]
        progress.advance()
    progress.finish()
    return pictures, players


def _wanted(drawn: Map, modality: Modality, most: int) -> Sequence[int]:
    """Return the numbers of the points to show: the best of a query, or a sample by the seed."""
    numbers = [
        number
        for number, point in enumerate(drawn.points)
        if point.modality == modality and point.source is not None
    ]
    if len(numbers) <= most or drawn.query_place is not None:
        return numbers[:most]
    rng = np.random.default_rng(drawn.seed)
    return sorted(rng.choice(numbers, most, replace=False).tolist())


# ---- the picture ---------------------------------------------------------------------------------


def _write_picture(drawn: Map, path: Path, kind: str) -> None:
    matplotlib = load_extra("matplotlib", extra="explore")
    load_extra("matplotlib.figure", extra="explore")
    colours = drawn.colours
    with (
        warnings.catch_warnings(),
        # Ids in an SVG come from a hash of their content and this, not from chance.
        matplotlib.rc_context({"svg.hashsalt": "muomni", "font.family": "DejaVu Sans"}),
    ):
        # A sign that the font lacks is drawn as a box.
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        figure = matplotlib.figure.Figure(figsize=(10, 7), dpi=150, layout="constrained")
        axes = figure.subplots()
        axes.set_aspect("equal", adjustable="datalim")
        axes.set_axis_off()
        area = float(np.clip(2_600 / len(drawn.points) ** 0.6, 3, 60))
        # In an order of chance, so that no group lies above another one.
        order = np.random.default_rng(0).permutation(len(drawn.points))
        for part in np.array_split(order, min(len(order), 12)):
            for number, group in enumerate(colours.groups):
                own = part[colours.group[part] == number]
                ink = colours.rgb[own] / 255
                axes.scatter(
                    drawn.places[own, 0],
                    drawn.places[own, 1],
                    s=area * AREAS[group.shape],
                    c="none" if group.shape == "ring" else ink,
                    edgecolors=ink if group.shape == "ring" else "white",
                    linewidths=1.0 if group.shape == "ring" else min(0.4, area / 40),
                    marker=MARKERS[group.shape],
                    alpha=0.9,
                )
        if drawn.query_place is not None:
            _mark_query(axes, drawn)
        _give_legend(matplotlib, figure, axes, drawn)
        _title(axes, drawn)
        figure.savefig(path, format=kind, metadata=_METADATA[kind], facecolor="white")


# No dates and no versions: the same map, the same bytes.
_METADATA: Mapping[str, Mapping[str, None]] = {
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None},
}


def _mark_query(axes: Any, drawn: Map) -> None:
    assert drawn.query_place is not None  # noqa: S101  for the type checker
    x, y = drawn.query_place.tolist()
    axes.scatter([x], [y], s=260, c="#1b1f27", marker="*", edgecolors="white", zorder=4)
    axes.annotate(
        _printable(drawn.query_title),
        (x, y),
        xytext=(11, 0),
        textcoords="offset points",
        va="center",
        weight="bold",
        zorder=5,
        parse_math=False,
    )


def _title(axes: Any, drawn: Map) -> None:
    axes.set_title(_printable(drawn.title), loc="left", weight="bold", pad=22, parse_math=False)
    axes.text(
        0, 1.015, " · ".join(_told(drawn)), transform=axes.transAxes, color="#5b6472", fontsize=9
    )


def _give_legend(matplotlib: Any, figure: Any, axes: Any, drawn: Map) -> None:
    """Say beside the picture what the colours mean."""
    load_extra("matplotlib.lines", extra="explore")
    colours = drawn.colours
    groups = colours.groups
    if colours.scale is not None:
        load_extra("matplotlib.cm", extra="explore")
        blend = matplotlib.colors.LinearSegmentedColormap.from_list("scale", SCALE)
        span = matplotlib.colors.Normalize(colours.scale.low, colours.scale.high)
        bar = figure.colorbar(
            matplotlib.cm.ScalarMappable(span, blend), ax=axes, shrink=0.6, pad=0.02
        )
        bar.outline.set_visible(False)
        bar.set_label(_printable(colours.field), parse_math=False)
        groups = groups[1:]
    if not groups:
        return
    handles = [
        matplotlib.lines.Line2D(
            [],
            [],
            linestyle="",
            marker=MARKERS[group.shape],
            markerfacecolor="none" if group.shape == "ring" else group.colour,
            markeredgecolor=group.colour,
        )
        for group in groups
    ]
    legend = figure.legend(
        handles,
        # Names come later: one that begins with "_" would be left out, a "$" begin a formula.
        ["x" * min(len(group.name) + 8, 30) for group in groups],
        loc="outside right upper",
        frameon=False,
        title=_printable(colours.field) if colours.scale is None else None,
        alignment="left",
    )
    legend.get_title().set_parse_math(False)
    for text, group in zip(legend.get_texts(), groups, strict=True):
        text.set_parse_math(False)
        text.set_text(f"{_printable(clip(group.name, 30))} ({group.count:,})")


def _printable(text: str) -> str:
    return clip(UNPRINTABLE.sub("�", text), TITLE_CHARACTERS)
