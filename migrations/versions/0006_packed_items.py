"""Keep an item's hash as 16 bytes and its time as a number, a thirtieth of what it takes."""

from datetime import UTC, datetime, timedelta

from alembic import op

revision = "0006"
down_revision = "0005"

# Whoever reads finds both columns as they were: they are computed.
STATEMENTS = [
    """
    CREATE TABLE packed (
        id INTEGER NOT NULL,
        "key" TEXT NOT NULL,
        modality VARCHAR(5) NOT NULL,
        source TEXT,
        root TEXT,
        text TEXT,
        metadata TEXT NOT NULL,
        hash BLOB,
        size INTEGER,
        mtime_ns INTEGER,
        added_ms INTEGER NOT NULL,
        checksum INTEGER,
        content_hash VARCHAR(32) GENERATED ALWAYS AS (
            CASE typeof(hash) WHEN 'blob' THEN lower(hex(hash)) ELSE hash END
        ) VIRTUAL,
        added VARCHAR(32) GENERATED ALWAYS AS (
            CASE typeof(added_ms) WHEN 'integer'
            THEN strftime('%Y-%m-%dT%H:%M:%fZ', added_ms / 1000.0, 'unixepoch') ELSE added_ms END
        ) VIRTUAL,
        PRIMARY KEY (id),
        UNIQUE ("key")
    )
    """,
    """
    INSERT INTO packed
        (id, "key", modality, source, root, text, metadata, hash, size, mtime_ns, added_ms,
        checksum)
    SELECT id, "key", modality, source, root, text, metadata,
        coalesce(packed_hash(CAST(content_hash AS BLOB)), content_hash), size, mtime_ns,
        coalesce(packed_time(CAST(added AS BLOB)), added), checksum
    FROM items ORDER BY id
    """,
    "DROP TABLE items",
    "ALTER TABLE packed RENAME TO items",
]
INDEXES = "SELECT sql FROM sqlite_master WHERE type = 'index' AND tbl_name = 'items' AND sql > ''"
START = datetime(1970, 1, 1, tzinfo=UTC)


def packed_hash(written: bytes | None) -> bytes | None:
    """Return the bytes that hexadecimal digits stand for; None where it is written otherwise."""
    try:
        packed = bytes.fromhex((written or b"").decode())
    except ValueError:
        return None
    return packed if packed and packed.hex().encode() == written else None


def packed_time(written: bytes) -> int | None:
    """Return the milliseconds since 1970; None where the time is written otherwise."""
    try:
        milliseconds = (datetime.fromisoformat(written.decode()) - START) // timedelta(
            milliseconds=1
        )
        moment = START + timedelta(milliseconds=milliseconds)
    except (ValueError, TypeError, OverflowError):
        return None
    again = moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return milliseconds if again.encode() == written else None


def upgrade() -> None:
    """Make the table anew, and its indexes, those of fields among them."""
    connection = op.get_bind()
    driver = connection.connection.driver_connection
    for function in (packed_hash, packed_time):
        driver.create_function(function.__name__, 1, function, deterministic=True)
    indexes = connection.exec_driver_sql(INDEXES).scalars().all()
    for statement in [*STATEMENTS, *indexes]:
        # As it stands: a field's name may look like a parameter.
        connection.exec_driver_sql(statement)
