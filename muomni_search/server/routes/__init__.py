"""The routes: each parses a request, has one thing done in a thread, and says what came of it.

front      the page, whether the server is there, and the way in
reading    collections, items, searches
writing    new collections, items that are added and deleted
media      pictures and sounds of items
uploads    files to ask with
exploring  why an item answers, a map, a file of queries
jobs       how far long work is, and its result

They share nothing but ``context`` and what is said to be public in each.
"""
