"""The HTTP server: collections, searches and a page for people, from one process.

    request ──▶ security ──▶ a route ──▶ a thread (work) ──▶ a Collection
                   └── problems ◀── whatever goes wrong ◀──────┘

run, app, settings     the process, the application, what it was asked for
security, metrics      the layers around every route
front, reading, media, uploads, writing, exploring, job_routes
                       the routes: the page and the way in; what is there; pictures and sounds;
                       files to ask with; changes; what takes long; jobs
schemas, context       what requests and answers look like; what every route takes
problems               which error is which status
served                 what requests share: collections (open), and
  work, jobs           threads by kind of work, and long work one at a time
  encoding             models, and queries that are encoded together
  cache, query_files   what was made of files, and files to ask with
  watches              folders that collections are kept in step with
page/                  the page: no build step, one script a part of it
"""
