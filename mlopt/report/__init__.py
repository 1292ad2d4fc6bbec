"""All of a run, as one value, and its renderings."""
