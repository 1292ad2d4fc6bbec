"""Results kept from run to run: one SQLite file, where they changed, and two of them side by side."""
