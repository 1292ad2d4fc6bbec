"""Answers of a model on instruction sets that this machine does not have, or has and hides."""
