"""What is kept: SQLite for what the items are, row files for their vectors, one commit for both."""
