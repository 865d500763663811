"""`gatepass demo`: a token issuer, two model servers and gatepass on one machine, and a client that checks them.

`command.demo` is the command. Nothing else may import this package.
"""
