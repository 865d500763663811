"""The server: FastAPI application, ASGI endpoint, pages for operators, and HTTP/1.1 for `gatepass serve`.

Exports `app.create_app`, `app.drain` and `process.DrainingServer`.
It receives requests and passes them to `proxy.handler.handle`, which decides everything about them.
Must not import `cli`. Only `cli` and `gatepass` itself import it.
"""
