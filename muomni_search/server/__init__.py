"""The HTTP server: collections, searches and a page for people, from one process."""
