"""Token sources that need no vendor's library: a program, a file, OAuth 2.0, and a JSON API.

Exports nothing: `source.py` imports one module when such a credential is configured. They call token endpoints through
`token_endpoint`. Must not import `holder`.
"""
