"""Samples: real inputs of a model, split once into calibration and evaluation, always streamed."""
