"""Refuse what a process of an earlier version writes, which still has the collection open."""

from alembic import op

revision = "0004"
down_revision = "0003"

# It would write items without checksums. It counts ``revision`` up with every commit, and
# ``summed`` not.
STATEMENTS = [
    "ALTER TABLE collection ADD COLUMN summed INTEGER NOT NULL DEFAULT 0",
    "CREATE TRIGGER no_earlier_writers BEFORE UPDATE OF revision ON collection"
    " WHEN NEW.summed <> NEW.revision BEGIN SELECT RAISE(ABORT,"
    " 'a newer version has upgraded it: stop this program and use that one'); END",
    "DROP INDEX collection_again",
    "CREATE INDEX collection_again ON collection"
    " (id, model, fingerprint, created, version, revision, settings, summed)",
]


def upgrade() -> None:
    """Add the number that only this version counts, and the trigger that compares it."""
    for statement in STATEMENTS:
        op.execute(statement)
