"""The HTTP/1.1 client for upstreams: connection pool, proxies, TLS and deadlines. It does not support HTTP/2.

`pool.open_transport` returns the transport of one upstream. `tls.TLSContexts` holds the TLS contexts of all of them.
Must not import an HTTP library, `proxy` or `sse`. It neither classifies replies nor retries: the caller does.
"""
