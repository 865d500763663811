"""Define the operations of the API: one table of paths, methods and client protocols.

`table` finds the operation and the profile of a path.
The package does no I/O. It must not import `learning`, `proxy`, `server` or another package of the same layer but
`protocols`.
"""
