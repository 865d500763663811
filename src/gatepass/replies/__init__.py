"""What others say, read in one place: an error in a reply, the kind of its bytes, when to try again. Pure: no I/O.

`error_body` has the names by which upstreams and issuers write the parts of an error, `content` recognizes pages,
events and JSON, and `retry_after` reads headers and texts. Whoever reads a reply decides what follows from it:
`dialects`, `tokens`, `learning`, `mcp`. The package must not import them.
"""
