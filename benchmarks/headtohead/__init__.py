"""What `benchmarks/head_to_head.py` is made of: cases, environments, runs, judgement, table."""
