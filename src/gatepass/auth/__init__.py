"""Authentication of clients: API keys, allowed hosts and origins, and the models that a caller may use.

Exports `authenticator.Authenticator`, `cors.preflight`, `cors.cors_headers` and the checks of `model_access`.
They decide from the head of a request; `model_access` also reads the body. Without I/O, apart from key files.
Must not import `server`, `proxy`, `tokens` or `http_client`.
"""
