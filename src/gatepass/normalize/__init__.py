"""Change requests so that an upstream accepts them, and check embeddings and rerank replies.

`rule` defines rules and changes, `built_in` applies them, `declared` and `profiles` build them from the configuration.
The other modules hold the changes, which edit the client's bytes through `json_editor`.
The package does no I/O. It must not import learning, proxy, server or another package of its layer.
"""
