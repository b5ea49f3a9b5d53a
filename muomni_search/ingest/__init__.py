"""From folders, tables and vectors on disk to records, and from bytes to contents.

``read_corpus`` in ``manifest`` is the way in; ``folder`` and ``table`` are its two kinds of
source; ``read`` turns a record's bytes into what an encoder takes.
"""
