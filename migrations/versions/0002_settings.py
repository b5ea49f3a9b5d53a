"""What a collection was asked to keep to: the recall promised, the memory for indexes."""

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add an object of settings, empty for the defaults."""
    op.execute("ALTER TABLE collection ADD COLUMN settings TEXT NOT NULL DEFAULT '{}'")
