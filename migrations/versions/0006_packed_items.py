"""Keep an item's hash as 16 bytes and its time as a number, a thirtieth of what it takes."""

from datetime import UTC, datetime, timedelta

from alembic import op

revision = "0006"
down_revision = "0005"

# Whoever reads finds both columns as they were: they are computed. Column by column, for in a table
# made anew two keys of which a flipped bit made one would not fit, and nothing could be repaired.
STATEMENTS = [
    "DROP INDEX items_by_hash",
    "ALTER TABLE items ADD COLUMN hash BLOB",
    "ALTER TABLE items ADD COLUMN added_ms INTEGER NOT NULL DEFAULT 0",
    "UPDATE items SET hash = coalesce(packed_hash(CAST(content_hash AS BLOB)), content_hash),"
    " added_ms = coalesce(packed_time(CAST(added AS BLOB)), added)",
    "ALTER TABLE items DROP COLUMN content_hash",
    "ALTER TABLE items DROP COLUMN added",
    "ALTER TABLE items ADD COLUMN content_hash VARCHAR(32) GENERATED ALWAYS AS"
    " (CASE typeof(hash) WHEN 'blob' THEN lower(hex(hash)) ELSE hash END) VIRTUAL",
    "ALTER TABLE items ADD COLUMN added VARCHAR(32) GENERATED ALWAYS AS"
    " (CASE typeof(added_ms) WHEN 'integer'"
    " THEN strftime('%Y-%m-%dT%H:%M:%fZ', added_ms / 1000.0, 'unixepoch') ELSE added_ms END)"
    " VIRTUAL",
    "CREATE INDEX items_by_hash ON items (content_hash) WHERE size IS NOT NULL",
]
START = datetime(1970, 1, 1, tzinfo=UTC)


def packed_hash(written: bytes | None) -> bytes | None:
    """Return the bytes that hexadecimal digits stand for; None where it is written otherwise."""
    try:
        packed = bytes.fromhex((written or b"").decode())
    except ValueError:
        return None
    return packed if packed and packed.hex().encode() == written else None


def packed_time(written: bytes | None) -> int | None:
    """Return the milliseconds since 1970; None where the time is written otherwise."""
    try:
        milliseconds = (datetime.fromisoformat((written or b"").decode()) - START) // timedelta(
            milliseconds=1
        )
        moment = START + timedelta(milliseconds=milliseconds)
    except (ValueError, TypeError, OverflowError):
        return None
    again = moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return milliseconds if again.encode() == written else None


def upgrade() -> None:
    """Add what is stored, fill it, and compute what was stored."""
    connection = op.get_bind()
    driver = connection.connection.driver_connection
    for function in (packed_hash, packed_time):
        driver.create_function(function.__name__, 1, function, deterministic=True)
    for statement in STATEMENTS:
        # As it stands: what looks like a parameter is a time's digits.
        connection.exec_driver_sql(statement)
