"""The page for operators at /ui: its files, its API and its event stream.

`routes.Ui` is the ASGI application of it. `admin.ROUTES` is the table of its API.
It shows what `server.pages`, `observability` and `proxy` hold, and changes it only by the routes of the role admin.
Must not import `server.app` or `server.process`, which import it.
"""
