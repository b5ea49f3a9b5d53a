"""The HTTP server: collections, searches and a page for people, from one process.

    request ──▶ metrics ──▶ security ──▶ leaving ──▶ a route ──▶ a thread (work) ──▶ a Collection
                               └── problems ◀──── whatever goes wrong ◀────────────────┘

run, app, settings     the process, the application, what it was asked for
metrics, security, leaving
                       the layers around every route: what is counted; who may ask, and what a
                       request may bring; clients that hang up
routes/                what can be asked
schemas, context       what requests and answers look like; what every route takes
problems               which error is which status, by the table in ``muomni_search.wire``
served                 what requests share: collections (open), and
  work, jobs           threads by kind of work, and long work one at a time
  encoding             models, and queries that are encoded together
  cache, query_files   what was made of files, and files to ask with
  watches              folders that collections are kept in step with
page/                  the page: no build step, one script a part of it
"""
