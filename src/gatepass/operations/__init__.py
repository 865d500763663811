"""Define the operations of the API, parse requests into calls, and write error objects.

`table` finds the operation and the profile of a path. `request` reads body and headers. `error_objects` writes errors
in the client's protocol.
The package does no I/O. It must not import `learning`, `proxy`, `server` or another package of the same layer.
"""
