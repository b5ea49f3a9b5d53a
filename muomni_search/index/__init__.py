"""Which rows are nearest: exact by matrix product, or candidates from FAISS and exact then.

Everything here is derived from the rows and knows nothing of items or SQL.
"""
