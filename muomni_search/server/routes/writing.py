"""Routes that change a collection: make one, add items, delete them.

Files that clients add lie in a folder beside the collection, each in one of its own, and go in as
the files of any other folder do, so that ``verify`` and ``repair`` know them. A file that no item
refers to any more (it could not be used, or was replaced or deleted) is removed. What a client sent
and could not be used is told to that client, and kept nowhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.datastructures import FormData, UploadFile

from muomni_search.collection import Collection
from muomni_search.documents import check_key, hash_content, key_prefix
from muomni_search.errors import InvalidInput, MuomniError
from muomni_search.ingest.folder import read_file_record
from muomni_search.ingest.rows import parse_json, read_rows
from muomni_search.items import Modality, Problem, Record
from muomni_search.pipeline import Report
from muomni_search.server import schemas
from muomni_search.server.context import Context, Key, Name, problems
from muomni_search.server.problems import Refused, at_fault, without_paths
from muomni_search.server.routes.reading import filter_of
from muomni_search.server.routes.uploads import content_type, files_of, keep_file
from muomni_search.server.served import Served
from muomni_search.store.sqlite import disk_errors
from muomni_search.store.uploads import Replaced, uploads_of
from muomni_search.vectors import check_vectors

__all__ = ["router"]

router = APIRouter()

# Of a JSON body, which is parsed as a whole; lines of JSON are read one by one.
JSON_BYTES = 32_000_000
EVERY_FILE = "*"
NAMELESS = "file"
# How many items are looked up together before they are replaced.
LOOKED_UP = 500

Entry = Record | Problem


# ---- collections -----------------------------------------------------------------------------


@router.post("/v1/collections", tags=["collections"], status_code=201,
             response_model=schemas.Created, responses=problems(400, 409))  # fmt: skip
async def create(context: Context, asked: schemas.NewCollection) -> Response:
    """Make an empty collection."""
    _check_writable(context)
    await context.change(asked.name, lambda: context.collections.create(asked.name, asked.model))
    return context.json({"name": asked.name}, 201)


def _check_writable(served: Served) -> None:
    if served.settings.read_only:
        raise Refused(
            "forbidden", "this server only reads", hint="start it without --read-only to add"
        )


# ---- adding ----------------------------------------------------------------------------------

BODIES = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": {"$ref": "#/components/schemas/NewItems"}},
            "application/x-ndjson": {
                "schema": {"type": "string", "description": "An item a line, as in JSON."}
            },
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {
                        "files": {
                            "type": "array",
                            "items": {"type": "string", "format": "binary"},
                        },
                        "metadata": {
                            "type": "string",
                            "description": "JSON: file name → metadata; * for all files.",
                        },
                        "prefix": {"type": "string"},
                        "names": {
                            "type": "string",
                            "description": "JSON: the file names in their order, where a form "
                            "cannot spell them (quotes, line breaks).",
                        },
                    },
                    "required": ["files"],
                }
            },
        },
    }
}


@router.post("/v1/collections/{name}/items", tags=["items"], response_model=schemas.Added,
             responses=problems(400, 404, 409, 415, 507), openapi_extra=BODIES)  # fmt: skip
async def add(context: Context, request: Request, name: Name) -> Response:
    """Add items: texts and vectors as JSON, or a line each; or files as a form.

    An item that cannot be used is one of ``failures``; the others are in. Where the model is
    damaged it is 503, and what it encoded before is in. The key of a file is its name, behind the
    prefix.
    """
    _check_writable(context)
    context.collections.find(name)  # before all of the body is here
    kind = content_type(request)
    if kind == "multipart/form-data":
        async with files_of(request) as form:
            told = await context.change(name, lambda: _add_files(context, name, form))
    elif kind in ("application/x-ndjson", "application/jsonl", "application/json"):
        with TemporaryDirectory(dir=context.scratch) as folder:
            path = Path(folder, "items.jsonl")
            most = JSON_BYTES if kind == "application/json" else None
            await _receive(request, path, most)
            read = _listed_items if kind == "application/json" else _lines
            told = await context.change(name, lambda: _add(context, name, read(path)))
    else:
        raise Refused(
            "unsupported-media",
            f"no items in {kind[:100] or 'a body without a type'}",
            hint="send application/json, application/x-ndjson or multipart/form-data",
        )
    return context.json(told)


async def _receive(request: Request, path: Path, most: int | None) -> None:
    """Write a body to a file, whole, before anything is done with it."""
    size = 0
    with path.open("wb") as file:
        async for chunk in request.stream():
            size += len(chunk)
            if most is not None and size > most:
                raise Refused(
                    "too-large",
                    f"JSON of more than {most} bytes",
                    hint="send application/x-ndjson, an item a line",
                )
            file.write(chunk)


def _listed_items(path: Path) -> Iterator[Entry]:
    """Yield the items of a JSON body, which is right as a whole or refused."""
    try:
        body = parse_json(path.read_bytes().decode())
    except ValueError as error:  # no UTF-8 is one, too
        raise Refused("malformed", f"no JSON: {error}") from error
    try:
        items = schemas.NewItems.model_validate(body).items
    except ValidationError as error:
        raise RequestValidationError(error.errors()) from error
    return (_entry(f"items.{number}", one) for number, one in enumerate(items))


def _lines(path: Path) -> Iterator[Entry]:
    """Yield the items of lines of JSON; a line that is none is a problem of its own."""
    for number, row in read_rows(path):
        origin = f"line {number}"
        if isinstance(row, str):
            yield Problem(origin, f"{origin}: {row}", "mend the line")
            continue
        try:
            new = schemas.NewRecord.model_validate(row)
        except ValidationError as error:
            wrong = at_fault(error.errors()[0])
            what = f"{origin}: {wrong['field']}: {wrong['message']}"
            key = row.get("key")
            yield Problem(origin, what, "mend the line", key if isinstance(key, str) else None)
            continue
        yield _entry(origin, new)


def _entry(origin: str, new: schemas.NewRecord) -> Entry:
    metadata = dict(new.metadata)
    if new.title is not None:
        metadata["title"] = new.title
    key = new.key
    try:
        if new.vector is None:
            key = key or f"text-{hash_content(str(new.text).encode(errors='replace'))[:16]}"
            return Record(key, Modality.TEXT, origin, text=new.text, metadata=metadata)
        vector = check_vectors([new.vector], "the vector")[0]
        key = key or f"{new.modality}-{hash_content(vector.tobytes())[:16]}"
        modality = Modality(str(new.modality))
        return Record(key, modality, origin, vector=vector, text=new.text, metadata=metadata)
    except MuomniError as error:
        return Problem(origin, error.what, error.hint or "mend the item", key)


def _add(served: Served, name: str, entries: Iterable[Entry]) -> dict[str, Any]:
    """Add entries to a collection; return what is answered."""
    with served.collections.open(name) as collection:
        replaced = Replaced(collection.store)
        try:
            report = collection.add(_watched(entries, replaced))
        finally:
            replaced.sweep()
        return _told(collection, report, {})


def _watched(entries: Iterable[Entry], replaced: Replaced) -> Iterator[Entry]:
    """Yield entries, and have the files written down that they replace."""
    rest = iter(entries)
    while some := list(islice(rest, LOOKED_UP)):
        replaced.remember([one.key for one in some if isinstance(one, Record)])
        yield from some


def _add_files(served: Served, name: str, form: FormData) -> dict[str, Any]:
    uploads, prefix, described = _fields_of(form)
    # What a path in an error is called: the key, which is what the client knows.
    names: dict[str, str] = {}
    with served.collections.open(name) as collection:
        folder = uploads_of(collection.directory)
        replaced = Replaced(collection.store)
        entries = (
            _file_entry(upload, given, prefix, described, folder, names)
            for given, upload in uploads
        )
        with disk_errors(folder):
            try:
                report = collection.add(_watched(entries, replaced))
            finally:
                replaced.sweep(names)
        return _told(collection, report, names)


def _fields_of(form: FormData) -> tuple[list[tuple[str, UploadFile]], str, Mapping[str, Any]]:
    """Return files by their names, what to put before their keys, and metadata by name."""
    values = {key: value for key, value in form.multi_items() if isinstance(value, str)}
    unknown = values.keys() - {"prefix", "metadata", "names"}
    if unknown:
        raise InvalidInput(
            f"unknown field {min(unknown)!r}", hint="send files, prefix, metadata, names"
        )
    uploads = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
    if not uploads:
        raise InvalidInput("a form without a file", hint="send at least one")
    names = [one.filename or NAMELESS for one in uploads]
    if "names" in values:
        names = _json_of("names", values["names"])
        is_one_each = isinstance(names, list) and len(names) == len(uploads)
        if not is_one_each or not all(isinstance(one, str) for one in names):
            raise InvalidInput(f"names is no list of {len(uploads)} texts", hint='send ["a.jpg"]')
    described = _json_of("metadata", values.get("metadata") or "{}")
    is_right = isinstance(described, dict) and all(
        isinstance(one, dict) for one in described.values()
    )
    if not is_right:
        raise InvalidInput(
            "metadata is no object of objects", hint='send {"a.jpg": {"year": 2020}}'
        )
    unsent = described.keys() - {EVERY_FILE, *names}
    if unsent:
        raise InvalidInput(
            f"metadata of {min(unsent)!r}, which was not sent",
            hint="name a file as it is sent, without the prefix; * is all files",
        )
    prefix = key_prefix(values.get("prefix"))
    return list(zip(names, uploads, strict=True)), prefix, described


def _json_of(field: str, text: str) -> Any:
    try:
        return parse_json(text)
    except ValueError as error:
        raise InvalidInput(f"{field} is no JSON: {error}") from error


def _file_entry(
    upload: UploadFile,
    given: str,
    prefix: str,
    described: Mapping[str, Any],
    folder: Path,
    names: dict[str, str],
) -> Entry:
    key = prefix + given
    try:
        check_key(key)
        if len(key) > schemas.KEY_CHARACTERS:
            raise InvalidInput(f"a name of {len(key)} characters", hint="give it a shorter one")
    except InvalidInput as error:
        return Problem(given[:100], error.what[:200], error.hint)
    path = keep_file(upload, given, folder)
    names[str(path)] = key
    entry = read_file_record(path, key, folder, named=True)
    if isinstance(entry, Record):
        metadata = {**described.get(EVERY_FILE, {}), **described.get(given, {})}
        return replace(entry, metadata=metadata)
    if isinstance(entry, Problem):
        return entry
    return Problem(str(path), entry.reason, "give another file", key)


def _told(collection: Collection, report: Report, names: Mapping[str, str]) -> dict[str, Any]:
    """Return what an addition is answered with, and forget what failed of it."""
    if report.problems:
        with collection.store.write() as writer:
            writer.clear_failures([one.source for one in report.problems])

    def harmless(one: Problem, text: str) -> str:
        return without_paths(text.replace(one.source, names.get(one.source, one.source)))

    return {
        **report.as_dict(),
        "failures": [
            {
                "key": one.key if one.key is not None else names.get(one.source),
                "error": harmless(one, one.error),
                "hint": harmless(one, one.hint),
            }
            for one in report.problems
        ],
    }


# ---- deleting --------------------------------------------------------------------------------


@router.delete("/v1/collections/{name}/item", tags=["items"], response_model=schemas.Deleted,
               responses=problems(404, 409))  # fmt: skip
async def delete_item(context: Context, name: Name, key: Key) -> Response:
    """Delete one item."""
    _check_writable(context)
    return context.json(await context.change(name, lambda: _delete(context, name, [key], None)))


@router.post("/v1/collections/{name}/delete", tags=["items"], response_model=schemas.Deleted,
             responses=problems(400, 404, 409))  # fmt: skip
async def delete(context: Context, name: Name, asked: schemas.Deletion) -> Response:
    """Delete items by key or by a filter, not both; when a key is not there, none is."""
    _check_writable(context)
    return context.json(
        await context.change(name, lambda: _delete(context, name, asked.keys, asked.where))
    )


def _delete(
    served: Served, name: str, keys: Sequence[str], where: str | Mapping[str, Any] | None
) -> dict[str, Any]:
    condition = filter_of(where)
    with served.collections.open(name) as collection:
        replaced = Replaced(collection.store)
        replaced.remember(keys)
        if condition is not None:
            replaced.remember([item.key for item in collection.items(where=condition)])
        deleted = collection.delete(keys, where=condition)
        replaced.sweep()
    return {"deleted": deleted}
