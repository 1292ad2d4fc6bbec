"""Latency and memory, taken in worker processes, interleaved with the baseline."""
