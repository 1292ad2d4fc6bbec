"""Images: OCI layouts assembled from hash-locked inputs, without daemon, privilege or emulation."""
