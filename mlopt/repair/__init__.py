"""Accuracy brought back before anything is kept in floating point: equalisation, learned rounding, bias correction."""
