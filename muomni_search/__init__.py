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
    from muomni_search.collection import Collection, Limits
    from muomni_search.duplicates import Group, find_duplicates
    from muomni_search.encoders.foreign.registered import register_encoder
    from muomni_search.encoders.model import load_model
    from muomni_search.encoders.protocol import Model
    from muomni_search.errors import (
        CheckpointError,
        Conflict,
        CorruptData,
        InvalidInput,
        MuomniError,
        NotFound,
        TrainingError,
        UnreadableFile,
    )
    from muomni_search.evaluation.retrieval import evaluate
    from muomni_search.explanation import Explanation, explain
    from muomni_search.explore.drawing import write_map
    from muomni_search.explore.map import Map, make_map
    from muomni_search.heat import write_heat
    from muomni_search.hits import Hits
    from muomni_search.ingest.manifest import read_corpus, read_records
    from muomni_search.items import Hit, Item, Modality, Problem, Query, Record, Span
    from muomni_search.pipeline import Report
    from muomni_search.reembed import Reembedded, reembed_collection
    from muomni_search.training.recipe import read_recipe
    from muomni_search.training.trainer import Training, train
    from muomni_search.transfer import export_collection, import_collection
    from muomni_search.watch import watch_folders

_HOMES = {
    "Alignment": "alignment",
    "CheckpointError": "errors",
    "Collection": "collection",
    "Conflict": "errors",
    "CorruptData": "errors",
    "Explanation": "explanation",
    "Group": "duplicates",
    "Hit": "items",
    "Hits": "hits",
    "InvalidInput": "errors",
    "Item": "items",
    "Limits": "collection",
    "Map": "explore.map",
    "Modality": "items",
    "Model": "encoders.protocol",
    "MuomniError": "errors",
    "NotFound": "errors",
    "Problem": "items",
    "Query": "items",
    "Record": "items",
    "Reembedded": "reembed",
    "Report": "pipeline",
    "Span": "items",
    "Training": "training.trainer",
    "TrainingError": "errors",
    "UnreadableFile": "errors",
    "explain": "explanation",
    "evaluate": "evaluation.retrieval",
    "align": "alignment",
    "export_collection": "transfer",
    "find_duplicates": "duplicates",
    "import_collection": "transfer",
    "load_model": "encoders.model",
    "make_map": "explore.map",
    "read_corpus": "ingest.manifest",
    "read_records": "ingest.manifest",
    "read_recipe": "training.recipe",
    "reembed_collection": "reembed",
    "register_encoder": "encoders.foreign.registered",
    "run_batch": "batch",
    "train": "training.trainer",
    "watch_folders": "watch",
    "write_heat": "heat",
    "write_map": "explore.drawing",
    "write_neighbors": "batch",
}

__all__ = [
    "Alignment",
    "CheckpointError",
    "Collection",
    "Conflict",
    "CorruptData",
    "Explanation",
    "Group",
    "Hit",
    "Hits",
    "InvalidInput",
    "Item",
    "Limits",
    "Map",
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
    "Training",
    "TrainingError",
    "UnreadableFile",
    "align",
    "evaluate",
    "explain",
    "export_collection",
    "find_duplicates",
    "import_collection",
    "load_model",
    "make_map",
    "read_corpus",
    "read_recipe",
    "read_records",
    "reembed_collection",
    "register_encoder",
    "run_batch",
    "train",
    "watch_folders",
    "write_heat",
    "write_map",
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
