"""The configuration: pydantic models, loading from a file or the environment, references and checks.

`load.load` returns a `LoadedConfig`, `model.Config` is the tree of all settings, and `checks` finds problems across
blocks. Every problem is reported with file, line, path and a suggestion.

Must not import any package of gatepass above it; only `types` and the other root modules.
"""
