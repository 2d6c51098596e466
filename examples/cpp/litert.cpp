// Detects objects with an engine of the runtime litert, through LiteRT's C API.
// Usage: edge_litert BUNDLE image.ppm    prints: class score x1 y1 x2 y2
#include <cstring>
#include <exception>

#include "litert/c/litert_common.h"
#include "litert/c/litert_compiled_model.h"
#include "litert/c/litert_environment.h"
#include "litert/c/litert_model.h"
#include "litert/c/litert_options.h"
#include "litert/c/litert_tensor_buffer.h"
#include "litert/c/litert_tensor_buffer_requirements.h"

#include "detector.hpp"

namespace {

void need(LiteRtStatus status, const char* what) {
  if (status != kLiteRtStatusOk) throw std::runtime_error(std::string("LiteRT cannot ") + what + " (status " + std::to_string(status) + ")");
}

// A buffer for an input or output of the network.
LiteRtTensorBuffer buffer_for(LiteRtEnvironment env, LiteRtTensor tensor, LiteRtTensorBufferRequirements needs) {
  LiteRtRankedTensorType type;
  need(LiteRtGetRankedTensorType(tensor, &type), "read a tensor's shape");
  if (type.element_type != kLiteRtElementTypeFloat32) throw std::runtime_error("the engine's tensors are not float32");
  LiteRtTensorBuffer made;
  need(LiteRtCreateManagedTensorBufferFromRequirements(env, &type, needs, &made), "make a buffer");
  return made;
}

std::vector<float> content(LiteRtTensorBuffer buffer) {
  void* address = nullptr;
  std::size_t bytes = 0;
  need(LiteRtGetTensorBufferPackedSize(buffer, &bytes), "measure an output");
  need(LiteRtLockTensorBuffer(buffer, &address, kLiteRtTensorBufferLockModeRead), "read an output");
  const float* first = static_cast<const float*>(address);
  std::vector<float> found(first, first + bytes / sizeof(float));
  need(LiteRtUnlockTensorBuffer(buffer), "release an output");
  return found;
}

// The network's input with its channels last, as TFLite has it.
std::vector<float> channels_last(const std::vector<float>& input) {
  const std::size_t area = input.size() / 3;
  std::vector<float> made(input.size());
  for (std::size_t place = 0; place < area; ++place)
    for (std::size_t channel = 0; channel < 3; ++channel) made[place * 3 + channel] = input[channel * area + place];
  return made;
}

edge::Raw run(const std::string& file, const std::vector<float>& input) {  // everything is freed when the program ends
  LiteRtEnvironment env;
  LiteRtModel model;
  LiteRtOptions options;
  LiteRtCompiledModel compiled;
  LiteRtSignature signature;
  need(LiteRtCreateEnvironment(0, nullptr, &env), "start");
  need(LiteRtCreateModelFromFile(env, file.c_str(), &model), "open the engine");
  need(LiteRtCreateOptions(&options), "start");
  need(LiteRtSetOptionsHardwareAccelerators(options, kLiteRtHwAcceleratorCpu), "choose the processor");
  need(LiteRtCreateCompiledModel(env, model, options, &compiled), "compile the engine");
  need(LiteRtGetModelSignature(model, 0, &signature), "read the engine");
  LiteRtTensor tensor;
  LiteRtTensorBufferRequirements needs;
  need(LiteRtGetSignatureInputTensorByIndex(signature, 0, &tensor), "read the input");
  need(LiteRtGetCompiledModelInputBufferRequirements(compiled, 0, 0, &needs), "read the input");
  LiteRtTensorBuffer images = buffer_for(env, tensor, needs);
  std::size_t bytes = 0;
  need(LiteRtGetTensorBufferPackedSize(images, &bytes), "measure the input");
  if (bytes != input.size() * sizeof(float)) throw std::runtime_error("the engine's input is not that of the contract");
  void* address = nullptr;
  need(LiteRtLockTensorBuffer(images, &address, kLiteRtTensorBufferLockModeWrite), "fill the input");
  std::memcpy(address, input.data(), bytes);
  need(LiteRtUnlockTensorBuffer(images), "fill the input");
  LiteRtParamIndex count = 0;
  need(LiteRtGetNumSignatureOutputs(signature, &count), "read the outputs");
  std::vector<LiteRtTensorBuffer> outputs;
  std::vector<std::string> names;
  for (LiteRtParamIndex index = 0; index < count; ++index) {
    const char* name = nullptr;
    need(LiteRtGetSignatureOutputTensorByIndex(signature, index, &tensor), "read the outputs");
    need(LiteRtGetTensorName(tensor, &name), "read the outputs");
    need(LiteRtGetCompiledModelOutputBufferRequirements(compiled, 0, index, &needs), "read the outputs");
    outputs.push_back(buffer_for(env, tensor, needs));
    names.push_back(name);
  }
  need(LiteRtRunCompiledModel(compiled, 0, 1, &images, outputs.size(), outputs.data()), "run the engine");
  edge::Raw raw;
  for (std::size_t index = 0; index < outputs.size(); ++index) raw[names[index]] = content(outputs[index]);
  return raw;
}

}  // namespace

int main(int argc, char** argv) try {
  if (argc != 3) throw std::runtime_error("usage: edge_litert BUNDLE image.ppm");
  const std::string folder = argv[1];
  const edge::Json contract = edge::read_json(folder + "/manifest.json")["contract"];
  const edge::Image image = edge::read_ppm(argv[2]);
  const auto [input, place] = edge::prepared(image, contract["preprocessing"]);
  const edge::Raw raw = run(folder + "/engine.tflite", channels_last(input));
  edge::check(contract, raw);
  edge::print(contract, edge::detections(contract, raw, image, place));
} catch (const std::exception& error) {
  std::fprintf(stderr, "error: %s\n", error.what());
  return 4;
}
