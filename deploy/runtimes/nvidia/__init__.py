"""What the two TensorRT runtimes share."""

from deploy.precision import Recipe

INTEGERS = Recipe(signed_activations=True, quantize_bias=False, quantize_outputs=False)
"""TensorRT knows only symmetric ranges, adds the bias in float, and fuses convolution and ReLU where nothing is rounded between."""
