"""The settings of each type of credential. `kinds.AnyCredential` is their union.

Optional libraries are not imported here, only looked up: the token sources in `tokens` import them.
"""
