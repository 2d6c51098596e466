"""Code shared by the two TensorRT runtimes."""

from deploy.precision import Recipe

INTEGERS = Recipe(signed_activations=True, quantize_bias=False, quantize_outputs=False)
"""TensorRT supports only symmetric ranges, adds the bias in float, and fuses convolution and ReLU if no rounding separates them."""
