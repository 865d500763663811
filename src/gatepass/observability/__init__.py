"""Log, metrics and redaction.

`log` exports `configure` and `emit`, `metrics` `Metrics` and `exposition_of`, `redaction` `Redactor` and `MASK`.
This package imports only `errors` of gatepass.
"""
