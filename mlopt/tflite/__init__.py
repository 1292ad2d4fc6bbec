"""ONNX graphs as .tflite files, for LiteRT: written here, without a converter."""
