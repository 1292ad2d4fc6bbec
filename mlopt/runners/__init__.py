"""One file per runtime: load an artifact and infer."""
