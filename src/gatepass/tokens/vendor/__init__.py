"""Token sources that use a vendor's library, which builds the requests. gatepass's own HTTP client sends them.

Exports nothing: `source.py` imports one module when such a credential is configured. The libraries are extras, and
only this package may import them. Must not open a connection past the credential's `network`.
"""
