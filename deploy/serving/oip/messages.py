"""The messages of the Open Inference Protocol over gRPC, with Triton's additions, as protobuf classes.

They are built from the table below at import time: generated code would tie an edge box to one release of protobuf. Messages that
are nested in the original are at the top level here; only field numbers are transmitted, not names.
"""

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

PACKAGE = "inference"
_FILE = "edgedistill_open_inference.proto"

_TABLE = """
InferParameter
    oneof bool bool_param 1
    oneof int64 int64_param 2
    oneof string string_param 3
    oneof double double_param 4
    oneof uint64 uint64_param 5
InferTensorContents
    repeated bool bool_contents 1
    repeated int32 int_contents 2
    repeated int64 int64_contents 3
    repeated uint32 uint_contents 4
    repeated uint64 uint64_contents 5
    repeated float fp32_contents 6
    repeated double fp64_contents 7
    repeated bytes bytes_contents 8
TensorMetadata
    string name 1
    string datatype 2
    repeated int64 shape 3
ServerLiveRequest
ServerLiveResponse
    bool live 1
ServerReadyRequest
ServerReadyResponse
    bool ready 1
ModelReadyRequest
    string name 1
    string version 2
ModelReadyResponse
    bool ready 1
ServerMetadataRequest
ServerMetadataResponse
    string name 1
    string version 2
    repeated string extensions 3
ModelMetadataRequest
    string name 1
    string version 2
ModelMetadataResponse
    string name 1
    repeated string versions 2
    string platform 3
    repeated TensorMetadata inputs 4
    repeated TensorMetadata outputs 5
InferInputTensor
    string name 1
    string datatype 2
    repeated int64 shape 3
    map parameters 4
    InferTensorContents contents 5
InferRequestedOutputTensor
    string name 1
    map parameters 2
InferOutputTensor
    string name 1
    string datatype 2
    repeated int64 shape 3
    map parameters 4
    InferTensorContents contents 5
ModelInferRequest
    string model_name 1
    string model_version 2
    string id 3
    map parameters 4
    repeated InferInputTensor inputs 5
    repeated InferRequestedOutputTensor outputs 6
    repeated bytes raw_input_contents 7
ModelInferResponse
    string model_name 1
    string model_version 2
    string id 3
    map parameters 4
    repeated InferOutputTensor outputs 5
    repeated bytes raw_output_contents 6
ModelStreamInferResponse
    string error_message 1
    ModelInferResponse infer_response 2
ModelTensorReshape
    repeated int64 shape 1
ModelInput
    string name 1
    int32 data_type 2
    repeated int64 dims 4
    ModelTensorReshape reshape 5
ModelOutput
    string name 1
    int32 data_type 2
    repeated int64 dims 3
    ModelTensorReshape reshape 5
ModelDynamicBatching
    uint64 max_queue_delay_microseconds 2
ModelConfig
    string name 1
    string platform 2
    int32 max_batch_size 4
    repeated ModelInput input 5
    repeated ModelOutput output 6
    ModelDynamicBatching dynamic_batching 11
    string backend 17
ModelConfigRequest
    string name 1
    string version 2
ModelConfigResponse
    ModelConfig config 1
StatisticDuration
    uint64 count 1
    uint64 ns 2
InferStatistics
    StatisticDuration success 1
    StatisticDuration fail 2
    StatisticDuration queue 3
    StatisticDuration compute_input 4
    StatisticDuration compute_infer 5
    StatisticDuration compute_output 6
    StatisticDuration cache_hit 7
    StatisticDuration cache_miss 8
ModelStatistics
    string name 1
    string version 2
    uint64 last_inference 3
    uint64 inference_count 4
    uint64 execution_count 5
    InferStatistics inference_stats 6
ModelStatisticsRequest
    string name 1
    string version 2
ModelStatisticsResponse
    repeated ModelStatistics model_stats 1
RepositoryIndexRequest
    string repository_name 1
    bool ready 2
ModelIndex
    string name 1
    string version 2
    string state 3
    string reason 4
RepositoryIndexResponse
    repeated ModelIndex models 1
RepositoryModelLoadRequest
    string repository_name 1
    string model_name 2
RepositoryModelLoadResponse
"""
"""Each message, followed by its fields, indented: [repeated | oneof] type name number; `map` maps text to InferParameter."""

DATA_TYPES = {"TYPE_BOOL": 1, "TYPE_INT64": 9, "TYPE_FP32": 11}
"""Triton's enumeration, for the types that our models use."""


def _field(message: Any, words: list[str]) -> None:
    kinds = descriptor_pb2.FieldDescriptorProto
    field = message.field.add(name=words[-2], number=int(words[-1]), label=kinds.LABEL_OPTIONAL)
    kind = words[-3]
    if words[0] == "repeated":
        field.label = kinds.LABEL_REPEATED
    if words[0] == "oneof":
        field.oneof_index = 0
    if kind == "map":
        entry = message.nested_type.add(name="ParametersEntry")
        entry.options.map_entry = True
        _field(entry, ["string", "key", "1"])
        _field(entry, ["InferParameter", "value", "2"])
        field.label, field.type, field.type_name = kinds.LABEL_REPEATED, kinds.TYPE_MESSAGE, f".{PACKAGE}.{message.name}.ParametersEntry"
    elif kind[0].isupper():
        field.type, field.type_name = kinds.TYPE_MESSAGE, f".{PACKAGE}.{kind}"
    else:
        field.type = getattr(kinds, f"TYPE_{kind.upper()}")


def _classes() -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(name=_FILE, package=PACKAGE, syntax="proto3")
    for line in _TABLE.strip().splitlines():
        words = line.split()
        if not line.startswith(" "):
            message = file.message_type.add(name=line)
            continue
        if words[0] == "oneof" and not message.oneof_decl:
            message.oneof_decl.add(name="parameter_choice")
        _field(message, words)
    pool = descriptor_pool.DescriptorPool()  # its own pool: a client of the protocol in the same process uses the same names
    pool.Add(file)
    return {one.name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{PACKAGE}.{one.name}")) for one in file.message_type}


MESSAGES = _classes()
"""Message classes by name."""
