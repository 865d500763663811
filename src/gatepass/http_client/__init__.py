"""The HTTP client for upstreams: HTTP/1.1 over a pool of connections, directly or through a proxy.

lean.py sends requests, tls.py holds the TLS contexts of all hops. No HTTP library is imported here, and nothing
is decided: what a reply means and whether a request is repeated is the caller's matter.
"""
