"""TensorRT engines that can only be built on the device: what is taken there, and how mlopt goes there itself."""
