"""The settings of each type of credential. `kinds.AnyCredential` is their union."""
