"""Event streams and whole replies of upstreams: frame, validate, repair, transform, aggregate, synthesize.

`event_stream.EventStream` validates one stream while it passes. `event` frames and parses events, and has the contract
of a change of a stream (`EventTransform`). Code here is pure: bytes in, bytes out, without I/O, clock or task.
The package must not import `proxy`, `server`, `normalize`, `dialects` or `tokens`.
"""
