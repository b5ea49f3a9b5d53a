"""The answer to a query: a list of hits that a notebook shows, and that becomes a table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self, SupportsIndex, overload

from muomni_search import frames
from muomni_search.items import Hit

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

__all__ = ["Hits"]

# A notebook keeps what it shows, so it shows less than a page: about two screens, in 4 MB.
SHOWN_HITS = 24
SHOWN_BYTES = 4_000_000
SHOWN_PIXELS = 240
SHOWN_SECONDS = 10.0


class Hits(list[Hit]):
    """Hits by score, then key; a list in every way.

    A notebook shows it as pictures, players and passages.

    Example:
        >>> Hits().to_arrow().column_names[:4]
        ['rank', 'key', 'modality', 'score']
    """

    @overload
    def __getitem__(self, place: SupportsIndex, /) -> Hit: ...
    @overload
    def __getitem__(self, place: slice, /) -> Self: ...
    def __getitem__(self, place: SupportsIndex | slice, /) -> Hit | Self:
        found: Any = super().__getitem__(place)
        return type(self)(found) if isinstance(place, slice) else found

    def to_arrow(self) -> pa.Table:
        """Return a table with a row a hit, and the columns that ``Hit`` has.

        ``metadata`` and ``span`` are JSON, as in an export.
        """
        return frames.hits_to_arrow(self)

    def to_pandas(self) -> pd.DataFrame:
        """Return a data frame with a row a hit; ``metadata`` and ``span`` are dicts.

        Raises:
            NotFound: pandas is not installed.
        """
        return frames.hits_to_pandas(self)

    def _repr_html_(self) -> str:
        from muomni_search.figures import WAVE_BARS, Figures, clip, facts, strength
        from muomni_search.pages import render_fragment

        figures = Figures(pixels=SHOWN_PIXELS, seconds=SHOWN_SECONDS, most_bytes=SHOWN_BYTES)
        return render_fragment(
            "hits.html.j2",
            scope="muomni-hits",
            styles=("base.css", "page.css", "hits.css"),
            hits=self[:SHOWN_HITS],
            more=max(0, len(self) - SHOWN_HITS),
            figure_of_hit=figures.of_hit,
            facts=facts,
            strength=strength,
            clip=clip,
            wave_bars=WAVE_BARS,
        )
