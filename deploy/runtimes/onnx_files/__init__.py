"""Code shared by runtimes whose engine is an ONNX file, and the half-precision session."""
