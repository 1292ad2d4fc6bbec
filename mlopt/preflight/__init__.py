"""Whether TensorRT on a device will take a model, asked here: its lists, the GPU's precisions, the memory."""
