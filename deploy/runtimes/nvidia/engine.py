"""Builds engines with TensorRT (10.13 and later, and 11) and TensorRT for RTX, which share one Python interface.

Networks are strongly typed: deploy/precision writes the precision into the ONNX graph instead of requesting it by flags. The types
in the parsed network are therefore the types in which the engine computes.
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnx import ModelProto

from deploy.contract import Heads
from deploy.errors import BuildError
from deploy.machine import files
from deploy.precision.network import name_nodes, read
from deploy.precision.proof import proof
from deploy.runtimes import Compiled
from deploy.runtimes.nvidia.log import make_logger, plain

_TYPES = {"FLOAT": "fp32", "HALF": "fp16", "INT8": "int8"}
_LOW = ("HALF", "BF16", "INT8", "FP8", "INT4", "FP4")


@dataclass(frozen=True)
class Settings:
    """How an engine is built.

    max_batch: maximum batch size, if the graph's batch is dynamic; `best_batch`: the batch size it is tuned for.
    workspace_mib: device memory that a layer may use while it runs; None for TensorRT's own choice.
    tf32: let fp32 layers round their factors to 10 bits of mantissa.
    timing_cache: file in which TensorRT keeps its measurements to speed up the next build; created if it does not exist.
    compute_capability: of a GPU to build for that need not be present, such as "8.9" (TensorRT for RTX); "current" for this machine's.
    """

    max_batch: int = 8
    best_batch: int = 1
    workspace_mib: int | None = None
    tf32: bool = False
    timing_cache: str | None = None
    compute_capability: float | str = "current"


def build_plan(trt: Any, typed: Path, heads: Heads, out: Path, settings: Settings) -> Compiled:
    """Write out/engine.plan; `trt` is the module tensorrt or tensorrt_rtx.

    Raises:
        BuildError: the graph cannot be parsed or built; the message names the operator.
    """
    model = read(typed)
    name_nodes(model)  # error messages name them
    logger = make_logger(trt)
    builder = trt.Builder(logger)
    if builder is None:
        raise BuildError(f"{trt.__name__} cannot start: {logger.reason()}")
    network = _parse(trt, builder, logger, model)
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # makes the engine report the types it computes in
    if settings.workspace_mib is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, settings.workspace_mib << 20)
    if not settings.tf32:
        config.clear_flag(trt.BuilderFlag.TF32)
    if settings.compute_capability != "current":
        _choose_device(trt, config, settings.compute_capability)
    _add_profile(builder, config, network, settings)
    cache = _load_cache(config, settings.timing_cache)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise BuildError(f"{trt.__name__} cannot build the graph: {_with_operators(logger.reason(), model)}")
    file = out / "engine.plan"
    file.write_bytes(plan)
    if cache is not None and (measured := config.get_timing_cache()) is not None:
        with files.replacing(cache) as scratch:  # other builds may be reading it
            scratch.write_bytes(bytes(measured.serialize()))
    shown = parsed_proof(trt, network, heads)
    if shown["low_precision_after_head"] is None:  # a strongly typed network has the graph's own types
        shown["low_precision_after_head"] = proof(model, heads)["low_precision_after_head"]
    return Compiled(file, shown)


def _load_cache(config: Any, name: str | None) -> Path | None:
    """Give the builder its earlier measurements; returns the cache's file, None if there is no cache."""
    if name is None:
        return None
    cache = Path(name).expanduser()
    cache.parent.mkdir(parents=True, exist_ok=True)
    kept = cache.read_bytes() if cache.exists() else b""
    if not config.set_timing_cache(config.create_timing_cache(kept), False):  # it is from a different GPU or version
        config.set_timing_cache(config.create_timing_cache(b""), False)
    return cache


def parsed_proof(trt: Any, network: Any, heads: Heads) -> dict[str, Any]:
    """Number of the parsed network's convolutions and matrix products per type, and of layers after the head outputs below fp32.

    A layer counts as int8 if its input comes from a dequantize layer, otherwise as its output type. `low_precision_after_head` is
    null if the parser did not keep the names of the head outputs; products after them, such as box decoding, are then counted, too.
    """
    layers = [network.get_layer(i) for i in range(network.num_layers)]
    producer = {layer.get_output(i).name: layer.type for layer in layers for i in range(layer.num_outputs)}
    found = set(producer).issuperset({*heads.outputs, *heads.inputs})
    after = _after(layers, heads) if found else set()
    kinds = {
        trt.LayerType.CONVOLUTION: "convolutions",
        trt.LayerType.DECONVOLUTION: "convolutions",
        trt.LayerType.MATRIX_MULTIPLY: "products",
    }
    counts = Counter({f"{kind}_{name}": 0 for kind in kinds.values() for name in _TYPES.values()})
    for number, layer in enumerate(layers):
        if layer.type in kinds and number not in after:
            quantized = producer.get(layer.get_input(0).name) == trt.LayerType.DEQUANTIZE
            given = layer.get_output(0).dtype.name
            counts[f"{kinds[layer.type]}_{'int8' if quantized else _TYPES.get(given, given)}"] += 1
    low = sum(any(layers[n].get_output(i).dtype.name in _LOW for i in range(layers[n].num_outputs)) for n in after)
    return {**counts, "low_precision_after_head": low if found else None}


def _after(layers: list[Any], heads: Heads) -> set[int]:
    """The layers, in no order, that depend on a head output."""
    reached = set(heads.outputs)
    after: set[int] = set()
    grown = True
    while grown:
        grown = False
        for number, layer in enumerate(layers):
            inputs = {layer.get_input(i).name for i in range(layer.num_inputs) if layer.get_input(i) is not None}
            if number not in after and reached & inputs:
                after.add(number)
                reached.update({layer.get_output(i).name for i in range(layer.num_outputs)}.difference(heads.inputs))
                grown = True
    return after


def _parse(trt: Any, builder: Any, logger: Any, model: ModelProto) -> Any:
    # TensorRT 10 builds weakly typed networks by default; later versions support only strongly typed ones.
    strongly_typed = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(0 if strongly_typed is None else 1 << int(strongly_typed))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(model.SerializeToString()):
        errors = [parser.get_error(i) for i in range(parser.num_errors)]
        named = next((error for error in errors if error.node_operator()), errors[0] if errors else None)
        if named is None:
            raise BuildError(f"{trt.__name__} cannot parse the graph: {logger.reason()}")
        where = f"{named.node_operator()} '{named.node_name()}'" if named.node_operator() else "the graph"
        raise BuildError(f"{trt.__name__} cannot parse {where}: {plain(named.desc())}")
    return network


def _choose_device(trt: Any, config: Any, compute_capability: float | str) -> None:
    known = {name: value for name, value in trt.ComputeCapability.__members__.items() if name.startswith("SM")}
    wanted = f"SM{str(compute_capability).replace('.', '')}"
    if wanted not in known:
        offered = ", ".join(f"{name[2:-1]}.{name[-1]}" for name in known)
        raise BuildError(f"{trt.__name__} cannot build for compute capability {compute_capability}; choose from {offered}, current")
    config.num_compute_capabilities = 1
    config.set_compute_capability(known[wanted], 0)


def _add_profile(builder: Any, config: Any, network: Any, settings: Settings) -> None:
    images = network.get_input(0)
    batch, *rest = tuple(images.shape)
    if -1 in rest:
        raise BuildError(f"the graph's input {tuple(images.shape)} is dynamic beyond its batch; export again with a fixed size")
    if batch == -1:
        profile = builder.create_optimization_profile()
        profile.set_shape(images.name, (1, *rest), (settings.best_batch, *rest), (settings.max_batch, *rest))
        config.add_optimization_profile(profile)


def _with_operators(message: str, model: ModelProto) -> str:
    """The message, followed by the operators of the nodes that it names."""
    kinds = sorted({node.op_type for node in model.graph.node if node.name and node.name in message})
    return f"{message} (operator {', '.join(kinds)})" if kinds else message
