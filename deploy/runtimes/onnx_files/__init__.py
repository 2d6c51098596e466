"""What runtimes share whose engine is an ONNX file, and the half-precision session."""
