// Detects objects with an engine of the runtime ncnn. First: unzip engine.ncnn.zip in the bundle's folder.
// Usage: edge_ncnn BUNDLE image.ppm    prints: class score x1 y1 x2 y2
#include <cstring>
#include <exception>

#include <net.h>

#include "detector.hpp"

namespace {

std::vector<float> plain(const ncnn::Mat& mat) {  // without the gaps between channels
  std::vector<float> made;
  for (int channel = 0; channel < mat.c; ++channel) {
    const float* own = mat.channel(channel);
    made.insert(made.end(), own, own + std::size_t(mat.w) * mat.h * mat.d);
  }
  return made;
}

edge::Raw run(const std::string& folder, const edge::Json& about, const std::vector<float>& input) {
  ncnn::Net net;
  const bool half = about["precision"] == "fp16";
  net.opt.use_vulkan_compute = false;
  net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = half;
  net.opt.use_bf16_packed = net.opt.use_bf16_storage = false;
  if (net.load_param((folder + "/model.param").c_str()) || net.load_model((folder + "/model.bin").c_str()))
    throw std::runtime_error(folder + ": ncnn cannot load model.param and model.bin");
  const int height = about["shape"][1], width = about["shape"][2];
  ncnn::Mat images(width, height, 3);
  for (int channel = 0; channel < 3; ++channel)
    std::memcpy(images.channel(channel), &input[std::size_t(channel) * width * height], sizeof(float) * width * height);
  ncnn::Extractor extractor = net.create_extractor();
  extractor.input("in0", images);
  edge::Raw raw;
  for (std::size_t index = 0; index < about["outputs"].size(); ++index) {
    ncnn::Mat found;
    if (extractor.extract(about["blobs"][index].get<std::string>().c_str(), found)) throw std::runtime_error("ncnn cannot compute an output");
    raw[about["outputs"][index].get<std::string>()] = plain(found);
  }
  return raw;
}

}  // namespace

int main(int argc, char** argv) try {
  if (argc != 3) throw std::runtime_error("usage: edge_ncnn BUNDLE image.ppm");
  const std::string folder = argv[1];
  const edge::Json contract = edge::read_json(folder + "/manifest.json")["contract"], about = edge::read_json(folder + "/about.json");
  const edge::Image image = edge::read_ppm(argv[2]);
  const auto [input, place] = edge::prepared(image, contract["preprocessing"]);
  const edge::Raw raw = run(folder, about, input);
  edge::check(contract, raw);
  edge::print(contract, edge::detections(contract, raw, image, place));
} catch (const std::exception& error) {
  std::fprintf(stderr, "error: %s\n", error.what());
  return 4;
}
