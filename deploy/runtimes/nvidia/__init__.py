"""What the two TensorRT runtimes share."""
