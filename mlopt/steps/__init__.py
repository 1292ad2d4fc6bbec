"""One file per step: artifact to artifact."""
