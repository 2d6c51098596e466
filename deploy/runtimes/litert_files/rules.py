"""Which rule converts which operator of ONNX."""

from deploy.runtimes.litert_files import convert, convolution, int8, more
from deploy.runtimes.litert_files.convert import Rules

RULES: Rules = {
    "Add": int8.add(convert.binary("ADD", "AddOptions")),
    "Clip": more.clip,
    "Concat": convert.concat,
    "Conv": convolution.conv,
    "DequantizeLinear": int8.dequantize,
    "Div": convert.binary("DIV", "DivOptions"),
    "GlobalAveragePool": more.mean,
    "HardSigmoid": more.hard_sigmoid,
    "HardSwish": convert.unary("HARD_SWISH"),
    "InstanceNormalization": convert.instance_norm,
    "MaxPool": convert.pool,
    "Mul": convert.binary("MUL", "MulOptions"),
    "QuantizeLinear": int8.quantize,
    "ReduceMean": more.mean,
    "Relu": convert.unary("RELU"),
    "Reshape": convert.reshape,
    "Resize": convert.resize,
    "Sigmoid": convert.unary("LOGISTIC"),
    "Slice": more.slice_,
    "Sub": convert.binary("SUB", "SubOptions"),
    "Transpose": convert.transpose,
}
