"""What requests and answers look like: the types, their limits, and the OpenAPI page from both."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from muomni_search.batch import FOREIGN_HITS
from muomni_search.items import DIM

__all__ = [
    "Added",
    "Asked",
    "CollectionList",
    "Counted",
    "Created",
    "Deleted",
    "Deletion",
    "ExplainRequest",
    "Explained",
    "FailureList",
    "Fields",
    "FilterCounts",
    "FoundItem",
    "Health",
    "Hits",
    "ItemPage",
    "JobBegun",
    "JobOut",
    "Kind",
    "MapOut",
    "NewCollection",
    "NewItems",
    "NewRecord",
    "Part",
    "Problem",
    "SearchRequest",
    "Session",
    "Token",
    "Upload",
    "Waveform",
]

MOST_PARTS = 32
MOST_EXPLAINED = 10
MOST_HITS = FOREIGN_HITS
MOST_OFFSET = 100_000
MOST_KEYS = 10_000
MOST_ITEMS = 10_000
QUERY_CHARACTERS = 20_000
WHERE_CHARACTERS = 10_000
KEY_CHARACTERS = 4_096
TEXT_CHARACTERS = 10_000_000
MOST_WEIGHT = 1e6
MOST_NUMBER = 1e30  # its square, summed up, is still one of 64 bits; of 32 bits it is one itself

Kind = Literal["text", "image", "audio"]
Key = Annotated[str, Field(min_length=1, max_length=KEY_CHARACTERS)]
Number = Annotated[float, Field(ge=-MOST_NUMBER, le=MOST_NUMBER)]
Vector = Annotated[list[Number], Field(min_length=DIM, max_length=DIM)]
Where = Annotated[str, Field(max_length=WHERE_CHARACTERS)] | dict[str, Any]
Object = dict[str, Any]
LackingFields = Annotated[
    dict[str, list[str]],
    Field(
        description="Where there is nothing: the metadata fields of the filter that no item has, "
        "and to each those that are spelled alike."
    ),
]


class Strict(BaseModel):
    """A request's body: nothing is guessed, nothing ignored, and numbers are finite."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


# ---- questions -------------------------------------------------------------------------------


class Part(Strict):
    """One addend of a query: words, an item, an upload or a vector, with a weight."""

    kind: Literal["text", "id", "image", "audio", "vector"]
    value: str | None = Field(
        default=None, max_length=QUERY_CHARACTERS, description="The words, or the key of an item."
    )
    vector: Vector | None = None
    upload: str | None = Field(
        default=None,
        max_length=64,
        description="What POST /v1/uploads called a file.",
    )
    weight: float = Field(
        default=1.0,
        ge=-MOST_WEIGHT,
        le=MOST_WEIGHT,
        description="Any number but 0; a negative one subtracts.",
    )

    @model_validator(mode="after")
    def _check(self) -> Part:
        wanted = {"vector": "vector", "image": "upload", "audio": "upload"}.get(self.kind, "value")
        for name in ("value", "vector", "upload"):
            if (getattr(self, name) is not None) != (name == wanted):
                raise ValueError(f"a part of kind {self.kind!r} has {wanted!r}, and nothing else")
        if self.weight == 0:
            raise ValueError("the weight is 0")
        return self


class Asked(Strict):
    """A query: the weighted sum of its parts."""

    parts: list[Part] = Field(min_length=1, max_length=MOST_PARTS)


class SearchRequest(Asked):
    """A query, and which of the answers are wanted."""

    k: int = Field(default=10, ge=1, le=MOST_HITS)
    offset: int = Field(default=0, ge=0, le=MOST_OFFSET)
    where: Where | None = Field(default=None, description="A filter, as text or as an object.")
    modality: list[Kind] | None = Field(default=None, max_length=3)
    min_score: float | Literal["auto"] | None = None
    exact: bool = Field(
        default=False, description="Compare with every row, whatever index there is."
    )
    segments: bool = Field(
        default=False, description="Every segment is a hit, not the best one an item."
    )
    include_self: bool = Field(default=False, description="Keep the items that it names.")
    explain: bool = Field(
        default=False,
        description=f"Tell of the best {MOST_EXPLAINED} hits what carries them; it takes a while.",
    )

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"parts": [{"kind": "text", "value": "a dog barking"}], "k": 5},
                {
                    "parts": [
                        {"kind": "id", "value": "animals/dog.jpg"},
                        {"kind": "text", "value": "day", "weight": -0.5},
                    ],
                    "modality": ["audio"],
                    "min_score": "auto",
                },
            ]
        }
    )


class ExplainRequest(Asked):
    """A query, and the item that answers it."""

    key: Key


class NewCollection(Strict):
    """A collection to make."""

    name: str = Field(min_length=1, max_length=100)
    model: Literal["base", "base-offline", "muomni-tiny", "hashing"] = "base"


class NewRecord(Strict):
    """An item to add: a text, or a ready vector with its modality."""

    key: Key | None = Field(default=None, description="By default made from the content.")
    text: str | None = Field(default=None, max_length=TEXT_CHARACTERS)
    title: str | None = Field(default=None, max_length=KEY_CHARACTERS)
    modality: Kind | None = None
    vector: Vector | None = None
    metadata: Object = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check(self) -> NewRecord:
        if self.vector is None and self.text is None:
            raise ValueError("an item has a text, or a vector")
        if self.vector is not None and self.modality is None:
            raise ValueError("a vector without a modality")
        if self.vector is None and self.modality not in (None, "text"):
            raise ValueError(f"an item of modality {self.modality!r} has a vector, or is a file")
        return self


class NewItems(Strict):
    """Items to add."""

    items: list[NewRecord] = Field(min_length=1, max_length=MOST_ITEMS)


class Deletion(Strict):
    """What to delete: keys, or what a filter matches."""

    keys: list[Key] = Field(default_factory=list, max_length=MOST_KEYS)
    where: Where | None = None

    @model_validator(mode="after")
    def _check(self) -> Deletion:
        if not self.keys and not self.where:
            raise ValueError("give keys, or a filter")
        if self.keys and self.where:
            raise ValueError("give keys, or a filter, not both")
        return self


class Token(Strict):
    """The token, for a cookie that stands for it."""

    token: str = Field(max_length=4_096)


# ---- answers ---------------------------------------------------------------------------------


class FieldError(BaseModel):
    """What is wrong with one field of a request."""

    field: str
    message: str


class Problem(BaseModel):
    """Why there is no other answer (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    hint: str | None = None
    errors: list[FieldError] | None = None


class Health(BaseModel):
    """Whether the server is there."""

    status: Literal["ok"]
    version: str
    collections: int
    read_only: bool


class Session(BaseModel):
    """Whether a token is wanted, and whether this client has shown it."""

    token_required: bool
    authenticated: bool


class Spot(BaseModel):
    """Where a segment lies in its item."""

    unit: Literal["char", "ms"]
    start: int
    end: int


class Shown(BaseModel):
    """What hits and items have in common."""

    key: str
    modality: Kind
    title: str
    text: str | None
    metadata: Object
    has_original: bool
    media_type: str | None


class Explained(BaseModel):
    """Why an item answers a query."""

    model_config = ConfigDict(extra="allow")

    key: str
    modality: Kind
    score: float
    cosine: float
    text: str | None
    span: Spot | None
    evidence: Object
    parts: list[Object]
    query_words: list[Object]
    overlay: str | None = Field(description="A PNG of the evidence, as data: URI.")


class Hit(Shown):
    """One answer to a query."""

    rank: int
    score: float
    cosine: float
    span: Spot | None
    how: Literal["exact", "ann"]
    recall: float | None
    explanation: Explained | None = Field(
        default=None, description="Where it was asked for, and the item's content is still there."
    )


class Hits(BaseModel):
    """The answers to a query."""

    hits: list[Hit]
    how: Literal["exact", "ann"]
    seconds: float
    lacking_fields: LackingFields


class FoundItem(Shown):
    """An item."""

    segments: int
    added: str
    vector: list[float] | None = None


class ItemPage(BaseModel):
    """Some items by key, and the key after which the next ones come."""

    items: list[FoundItem]
    next: str | None


class Counts(BaseModel):
    """How many items there are: all, and of each modality."""

    items: int
    text: int
    image: int
    audio: int


class FilterCounts(Counts):
    """How many items a filter lets through."""

    lacking_fields: LackingFields


class Counted(Counts):
    """A collection in a list."""

    name: str
    model: str | None
    error: str | None


class CollectionList(BaseModel):
    """The collections that there are."""

    collections: list[Counted]


class Created(BaseModel):
    """A collection that was made."""

    name: str


class ValueCount(BaseModel):
    """A value of a field, and how many items have it."""

    value: str | float | bool
    items: int


class FieldSummary(BaseModel):
    """A field of the metadata: how many items have it, of which types, and with which values."""

    items: int
    types: dict[str, int]
    indexed: bool
    values: list[ValueCount]


class Fields(BaseModel):
    """What a filter can ask for."""

    fields: dict[str, FieldSummary]


class Refusal(BaseModel):
    """An item that could not be added."""

    key: str | None
    error: str
    hint: str


class Added(BaseModel):
    """What an addition did."""

    added: int
    updated: int
    unchanged: int
    moved: int
    removed: int
    failed: int
    skipped: int
    seconds: float
    failures: list[Refusal]


class Deleted(BaseModel):
    """How many items were deleted."""

    deleted: int


class FailureOut(Refusal):
    """An input that could not be used."""

    attempts: int
    last: str


class FailureList(BaseModel):
    """The inputs that could not be used."""

    failures: list[FailureOut]


class Upload(BaseModel):
    """A picture or a sound to ask with."""

    upload: str
    kind: Literal["image", "audio"]
    media_type: str
    bytes: int
    width: int | None = None
    height: int | None = None
    seconds: float | None = None


class Waveform(BaseModel):
    """The envelope of a sound, from 0 to 1."""

    bars: list[float]
    seconds: float


class JobBegun(BaseModel):
    """A job that was begun."""

    job: str


class JobOut(BaseModel):
    """How far a job is."""

    id: str
    kind: Literal["batch", "map"]
    collection: str
    state: Literal["queued", "running", "done", "failed", "cancelled"]
    stage: str
    done: int
    total: int | None
    error: str | None
    summary: Object | None = Field(description="Of a batch: answered, failed, why; lacking_fields.")


class Point(BaseModel):
    """An item on a map."""

    key: str
    modality: Kind
    title: str
    x: float
    y: float


class MapOut(BaseModel):
    """A map: what is near in the space is near on it."""

    method: str
    found: int
    points: list[Point]
