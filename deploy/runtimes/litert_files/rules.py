"""Which rule converts which operator of ONNX."""

from deploy.runtimes.litert_files import convert, more
from deploy.runtimes.litert_files.convert import Rules

RULES: Rules = {
    "Add": convert.binary("ADD", "AddOptions"),
    "Clip": more.clip,
    "Concat": convert.concat,
    "Conv": convert.conv,
    "Div": convert.binary("DIV", "DivOptions"),
    "GlobalAveragePool": more.mean,
    "HardSigmoid": more.hard_sigmoid,
    "HardSwish": convert.unary("HARD_SWISH"),
    "InstanceNormalization": convert.instance_norm,
    "MaxPool": convert.pool,
    "Mul": convert.binary("MUL", "MulOptions"),
    "ReduceMean": more.mean,
    "Relu": convert.unary("RELU"),
    "Reshape": convert.reshape,
    "Resize": convert.resize,
    "Sigmoid": convert.unary("LOGISTIC"),
    "Slice": more.slice_,
    "Sub": convert.binary("SUB", "SubOptions"),
    "Transpose": convert.transpose,
}
