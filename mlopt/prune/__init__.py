"""Structured pruning of an ONNX graph: channels that go together, their worth, how the rest makes up for them."""
