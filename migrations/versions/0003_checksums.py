"""Let a flipped byte be seen: a checksum for each item, every other value a second time."""

import zlib

from alembic import op

revision = "0003"
down_revision = "0002"

# PRAGMA integrity_check compares a table with its indexes, value by value.
STATEMENTS = [
    "ALTER TABLE items ADD COLUMN checksum INTEGER",
    "DROP INDEX segments_by_item",
    "CREATE INDEX segments_by_item ON segments (item_id, ordinal, span_start, span_end)",
    "CREATE INDEX collection_again ON collection"
    " (id, model, fingerprint, created, version, revision, settings)",
    "CREATE INDEX row_files_again ON row_files (modality, generation, rows, dead)",
    "CREATE INDEX index_files_again ON index_files"
    " (modality, generation, name, kind, rows, bytes, checksum, params, created)",
    'CREATE INDEX failures_again ON failures (source, "key", error, hint, attempts, first, last)',
    "CREATE INDEX jobs_again ON jobs (output, fingerprint, done, state, mark, updated)",
]


def item_checksum(*values: bytes | None) -> int:
    """Return what ``documents.item_checksum`` did when this revision was made."""
    return zlib.crc32(b"\0".join(b"None" if value is None else value for value in values))


def upgrade() -> None:
    """Add the column and the indexes; compute the checksums of the items that there are."""
    for statement in STATEMENTS:
        op.execute(statement)
    driver = op.get_bind().connection.driver_connection
    driver.create_function("item_checksum", 7, item_checksum, deterministic=True)
    # As bytes: one that was flipped may be no character any more, and is no hindrance.
    names = ("key", "modality", "source", "text", "metadata", "content_hash", "added")
    columns = ", ".join(f'CAST("{name}" AS BLOB)' for name in names)
    op.execute(f"UPDATE items SET checksum = item_checksum({columns})")  # noqa: S608  as above
