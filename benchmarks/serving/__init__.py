"""What `benchmarks/server.py` is made of: models, servers, load, table."""
