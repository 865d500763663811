"""Log, metrics and redaction.

Exports by module: `log` (`configure`, `emit`), `metrics` (`Metrics`, `merged`), `redaction` (`Redactor`, `MASK`).
The access record itself is in `gatepass.proxy.context`. This package imports only `errors` of gatepass: nothing of
the request path, of tokens or of the configuration.
"""
