"""Sources that a vendor's library makes: it says what to ask for, and our own Transport does the asking.

The libraries are extras, imported when such a credential is configured and only in this package.
"""
