"""Parity with the source, accuracy against the baseline."""
