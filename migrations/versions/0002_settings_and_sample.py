"""What a collection was asked to keep to, and a quick way to the sample of its segments."""

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add an object of settings, empty for the defaults, and an index of the first segments."""
    op.execute("ALTER TABLE collection ADD COLUMN settings TEXT NOT NULL DEFAULT '{}'")
    # The 64th part of them by a hash: without it each change of a collection makes the next query
    # read all segments.
    spread = "((item_id & 1073741823) * 2654435761 + ordinal * 1779033703) & 4294967295"
    op.execute(
        f'CREATE INDEX segments_sample ON segments (modality, {spread}, "row")'
        f" WHERE {spread} < 67108864"
    )
