"""A search engine for text, pictures and sound in one 256-dimensional space.

    from muomni_search import Collection, Query, read_corpus

    with Collection.create("indexes/birds") as birds:
        birds.add(read_corpus(["photos/birds"]))
        hits = birds.query(Query.text("a robin at dawn"), k=10, modality="audio")

The public names are loaded at their first use, so that importing the package costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from muomni_search.alignment import Alignment, align
    from muomni_search.batch import run_batch, write_neighbors
    from muomni_search.collection import Collection, Limits, Report
    from muomni_search.encoders.model import load_model
    from muomni_search.encoders.protocol import Model
    from muomni_search.errors import (
        CheckpointError,
        Conflict,
        CorruptData,
        InvalidInput,
        MuomniError,
        NotFound,
        UnreadableFile,
    )
    from muomni_search.ingest.manifest import read_corpus
    from muomni_search.items import Hit, Item, Modality, Problem, Query, Record, Span
    from muomni_search.reembed import Reembedded, reembed_collection
    from muomni_search.transfer import export_collection, import_collection

_HOMES = {
    "Alignment": "alignment",
    "CheckpointError": "errors",
    "Collection": "collection",
    "Conflict": "errors",
    "CorruptData": "errors",
    "Hit": "items",
    "InvalidInput": "errors",
    "Item": "items",
    "Limits": "collection",
    "Modality": "items",
    "Model": "encoders.protocol",
    "MuomniError": "errors",
    "NotFound": "errors",
    "Problem": "items",
    "Query": "items",
    "Record": "items",
    "Reembedded": "reembed",
    "Report": "collection",
    "Span": "items",
    "UnreadableFile": "errors",
    "align": "alignment",
    "export_collection": "transfer",
    "import_collection": "transfer",
    "load_model": "encoders.model",
    "read_corpus": "ingest.manifest",
    "reembed_collection": "reembed",
    "run_batch": "batch",
    "write_neighbors": "batch",
}

__all__ = [
    "Alignment",
    "CheckpointError",
    "Collection",
    "Conflict",
    "CorruptData",
    "Hit",
    "InvalidInput",
    "Item",
    "Limits",
    "Modality",
    "Model",
    "MuomniError",
    "NotFound",
    "Problem",
    "Query",
    "Record",
    "Reembedded",
    "Report",
    "Span",
    "UnreadableFile",
    "align",
    "export_collection",
    "import_collection",
    "load_model",
    "read_corpus",
    "reembed_collection",
    "run_batch",
    "write_neighbors",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
