"""The first schema."""

from alembic import op

revision = "0001"
down_revision = None

# Written out, not made from the tables of today: a revision never changes.
STATEMENTS = [
    # "muom": what tells a collection from any other SQLite file.
    f"PRAGMA application_id = {0x6D756F6D}",
    """
    CREATE TABLE collection (
        id INTEGER NOT NULL,
        model TEXT NOT NULL,
        fingerprint VARCHAR(64) NOT NULL,
        created VARCHAR(32) NOT NULL,
        version INTEGER NOT NULL,
        revision INTEGER NOT NULL,
        PRIMARY KEY (id)
    )
    """,
    """
    CREATE TABLE dead_rows (
        modality VARCHAR(5) NOT NULL,
        "row" INTEGER NOT NULL,
        PRIMARY KEY (modality, "row")
    )
     WITHOUT ROWID
    """,
    """
    CREATE TABLE failures (
        source TEXT NOT NULL,
        "key" TEXT,
        error TEXT NOT NULL,
        hint TEXT NOT NULL,
        attempts INTEGER NOT NULL,
        first VARCHAR(32) NOT NULL,
        last VARCHAR(32) NOT NULL,
        PRIMARY KEY (source)
    )
    """,
    """
    CREATE TABLE index_files (
        modality VARCHAR(5) NOT NULL,
        generation INTEGER NOT NULL,
        name TEXT NOT NULL,
        kind TEXT NOT NULL,
        rows INTEGER NOT NULL,
        bytes INTEGER NOT NULL,
        checksum TEXT NOT NULL,
        params TEXT NOT NULL,
        created VARCHAR(32) NOT NULL,
        PRIMARY KEY (modality)
    )
    """,
    """
    CREATE TABLE items (
        id INTEGER NOT NULL,
        "key" TEXT NOT NULL,
        modality VARCHAR(5) NOT NULL,
        source TEXT,
        root TEXT,
        text TEXT,
        metadata TEXT NOT NULL,
        content_hash VARCHAR(32),
        size INTEGER,
        mtime_ns INTEGER,
        added VARCHAR(32) NOT NULL,
        PRIMARY KEY (id),
        UNIQUE ("key")
    )
    """,
    "CREATE INDEX items_by_hash ON items (content_hash) WHERE content_hash IS NOT NULL",
    "CREATE INDEX items_by_root ON items (root) WHERE root IS NOT NULL",
    """
    CREATE TABLE jobs (
        output TEXT NOT NULL,
        fingerprint TEXT NOT NULL,
        done INTEGER NOT NULL,
        state TEXT NOT NULL,
        mark TEXT NOT NULL,
        updated VARCHAR(32) NOT NULL,
        PRIMARY KEY (output)
    )
    """,
    """
    CREATE TABLE row_blocks (
        modality VARCHAR(5) NOT NULL,
        block INTEGER NOT NULL,
        checksum INTEGER NOT NULL,
        PRIMARY KEY (modality, block)
    )
     WITHOUT ROWID
    """,
    """
    CREATE TABLE row_files (
        modality VARCHAR(5) NOT NULL,
        generation INTEGER NOT NULL,
        rows INTEGER NOT NULL,
        dead INTEGER NOT NULL,
        PRIMARY KEY (modality)
    )
    """,
    """
    CREATE TABLE segments (
        modality VARCHAR(5) NOT NULL,
        "row" INTEGER NOT NULL,
        item_id INTEGER NOT NULL,
        ordinal INTEGER NOT NULL,
        span_start INTEGER,
        span_end INTEGER,
        PRIMARY KEY (modality, "row"),
        FOREIGN KEY(item_id) REFERENCES items (id) ON DELETE CASCADE
    )
     WITHOUT ROWID
    """,
    "CREATE INDEX segments_by_item ON segments (item_id, ordinal)",
]


def upgrade() -> None:
    """Make all tables."""
    for statement in STATEMENTS:
        op.execute(statement)
