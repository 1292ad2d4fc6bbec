"""What `benchmarks/budgets.py` is made of: requests and their answers, who judges them, the table."""
