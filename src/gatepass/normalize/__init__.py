"""Change requests so that an upstream accepts them, and check embeddings and rerank replies.

`rules` defines rules, lists the built-in and the declared ones, and applies them. `profiles` builds those of a profile.
The other modules hold the changes, which edit a `draft.Draft` of the call.
The package does no I/O. It must not import learning, proxy, server or another package of its layer.
"""
