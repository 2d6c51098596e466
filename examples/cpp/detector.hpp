// From an image to the network's input, and from its raw outputs to boxes: what edgedistill does in Python, as manifest.json describes it
// under "contract". Both programs here use it; the steps are those of docs/host-decoding.md.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <map>
#include <numeric>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

namespace edge {

using Json = nlohmann::json;
using Box = std::array<float, 4>;
using Raw = std::map<std::string, std::vector<float>>;  // each output of one image, row after row

struct Image {
  int width = 0, height = 0;
  std::vector<std::uint8_t> pixels;  // RGB, row after row
};

struct Placement {  // where an image lies in the network's input
  int wide, high, left, top;
};

struct Detection {
  int label;
  float score;
  std::array<double, 4> box;  // x1, y1, x2, y2 in px of the image
};

inline Json read_json(const std::string& file) {
  std::ifstream in(file);
  if (!in) throw std::runtime_error(file + ": cannot be read");
  return Json::parse(in);
}

// A binary PPM with 8 bits per color. Decode JPEGs and PNGs with the library of your choice.
inline Image read_ppm(const std::string& file) {
  std::ifstream in(file, std::ios::binary);
  std::string kind;
  int most = 0;
  Image image;
  in >> kind >> image.width >> image.height >> most;
  in.get();
  if (!in || kind != "P6" || most != 255 || image.width < 1 || image.height < 1 || image.width > 65535 || image.height > 65535)
    throw std::runtime_error(file + ": not a binary PPM of 8 bits");
  image.pixels.resize(std::size_t(3) * image.width * image.height);
  if (!in.read(reinterpret_cast<char*>(image.pixels.data()), std::streamsize(image.pixels.size())))
    throw std::runtime_error(file + ": ends early");
  return image;
}

// Resampling as Pillow does it: each new px is a weighted mean of a window, in whole numbers of 22 bits.
constexpr int kBits = 22;

inline double weight(const std::string& kind, double x) {
  x = std::fabs(x);
  if (kind == "bilinear") return x < 1 ? 1 - x : 0;
  constexpr double a = -0.5;  // bicubic
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  return x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0;
}

// Resamples lines of px: `size` px, `step` numbers apart, become `wanted`.
inline void resample(const std::uint8_t* from, int size, int step, std::uint8_t* to, int wanted, int to_step, int lines, int line_step,
                     int to_line_step, const std::string& kind) {
  const double scale = double(size) / wanted, spread = std::max(scale, 1.0), reach = (kind == "bilinear" ? 1.0 : 2.0) * spread;
  for (int place = 0; place < wanted; ++place) {
    const double center = (place + 0.5) * scale;
    const int first = std::max(int(center - reach + 0.5), 0), end = std::min(int(center + reach + 0.5), size);
    std::vector<double> shares;
    for (int x = first; x < end; ++x) shares.push_back(weight(kind, (x - center + 0.5) / spread));
    const double sum = std::accumulate(shares.begin(), shares.end(), 0.0);
    std::vector<std::int64_t> whole;
    for (double one : shares) whole.push_back(std::int64_t(one / sum * (1 << kBits) + (one < 0 ? -0.5 : 0.5)));
    for (int line = 0; line < lines; ++line)
      for (int channel = 0; channel < 3; ++channel) {
        std::int64_t total = std::int64_t(1) << (kBits - 1);
        const std::uint8_t* own = from + std::ptrdiff_t(line) * line_step + channel;
        for (std::size_t k = 0; k < whole.size(); ++k) total += own[std::ptrdiff_t(first + int(k)) * step] * whole[k];
        to[std::ptrdiff_t(line) * to_line_step + std::ptrdiff_t(place) * to_step + channel] =
            std::uint8_t(std::clamp<std::int64_t>(total >> kBits, 0, 255));
      }
  }
}

inline std::vector<std::uint8_t> resized(const Image& image, int wide, int high, const std::string& kind) {
  std::vector<std::uint8_t> rows = image.pixels, made(std::size_t(3) * wide * high);
  if (kind == "nearest") {
    const double down = double(image.height) / high, across = double(image.width) / wide;
    double row = down / 2;  // summed up, as Pillow does: (y + 0.5) * down rounds to another pixel now and then
    for (int y = 0; y < high; ++y, row += down) {
      double column = across / 2;
      for (int x = 0; x < wide; ++x, column += across)
        std::copy_n(&image.pixels[std::size_t(3) * (std::size_t(row) * image.width + std::size_t(column))], 3, &made[std::size_t(3) * (std::size_t(y) * wide + x)]);
    }
    return made;
  }
  if (wide != image.width) {
    rows.resize(std::size_t(3) * wide * image.height);
    resample(image.pixels.data(), image.width, 3, rows.data(), wide, 3, image.height, 3 * image.width, 3 * wide, kind);
  }
  if (high == image.height) return rows;
  resample(rows.data(), image.height, 3 * wide, made.data(), high, 3 * wide, wide, 3, 3, kind);
  return made;
}

inline Placement placed(const Image& image, const Json& how) {
  const int width = how["width"], height = how["height"];
  const std::string resize = how["resize"];
  if (resize == "stretch") return {width, height, 0, 0};
  const double scale = std::min(double(width) / image.width, double(height) / image.height);
  const int wide = std::max(int(std::nearbyint(image.width * scale)), 1), high = std::max(int(std::nearbyint(image.height * scale)), 1);
  if (resize == "shortest_edge") return {wide, high, 0, 0};
  return {wide, high, (width - wide) / 2, (height - high) / 2};
}

// The network's input, [3, height, width], and where the image lies in it.
inline std::pair<std::vector<float>, Placement> prepared(const Image& image, const Json& how) {
  const int width = how["width"], height = how["height"];
  const Placement place = placed(image, how);
  const auto pixels = resized(image, place.wide, place.high, how["interpolation"]);
  std::vector<float> made(std::size_t(3) * width * height);
  for (int channel = 0; channel < 3; ++channel) {
    const double spread = how["std"][channel], mean = how["mean"][channel];
    const float factor = float(1 / (255 * spread)), shift = float(mean / spread);
    const int source = how["color"] == "bgr" ? 2 - channel : channel;
    float* own = &made[std::size_t(channel) * width * height];
    std::fill_n(own, width * height, float(int(how["pad_value"])) * factor - shift);
    for (int y = 0; y < place.high; ++y)
      for (int x = 0; x < place.wide; ++x)
        own[(y + place.top) * width + x + place.left] = pixels[std::size_t(3) * (std::size_t(y) * place.wide + x) + source] * factor - shift;
  }
  return {made, place};
}

struct Candidate {
  Box box;
  float score;
  int label;
};

inline float sigmoid(float x) { return 1 / (1 + std::exp(-x)); }

inline float overlap(const Box& a, const Box& b) {
  const float across = std::min(a[2], b[2]) - std::max(a[0], b[0]), down = std::min(a[3], b[3]) - std::max(a[1], b[1]);
  const float shared = std::max(across, 0.0f) * std::max(down, 0.0f);
  const auto area = [](const Box& box) { const float found = (box[2] - box[0]) * (box[3] - box[1]); return found == 0 ? 1.0f : found; };
  return shared / (area(a) + area(b) - shared);
}

// A box in px of the network's input, from the numbers predicted for an anchor.
inline Box decoded(const Json& code, const float* numbers, const Box& anchor) {
  std::array<float, 4> value{};
  for (int side = 0; side < 4; ++side) value[side] = numbers[int(code["order"][side])] * float(code["scale"][side]);
  const float wide = anchor[2] - anchor[0], high = anchor[3] - anchor[1], x = anchor[0] + 0.5f * wide, y = anchor[1] + 0.5f * high;
  if (code["kind"] == "sides") return {x + value[0] * wide, y + value[1] * high, x + value[2] * wide, y + value[3] * high};
  for (int side = 2; side < 4; ++side) {
    if (!code["least"].is_null()) value[side] = std::max(value[side], float(code["least"]));
    if (!code["most"].is_null()) value[side] = std::min(value[side], float(code["most"]));
  }
  const float middle_x = value[0] * wide + x, middle_y = value[1] * high + y;
  const float half_x = 0.5f * std::exp(value[2]) * wide, half_y = 0.5f * std::exp(value[3]) * high;
  return {middle_x - half_x, middle_y - half_y, middle_x + half_x, middle_y + half_y};
}

// The four numbers of a row: as they are, or the means of four distributions.
inline std::array<float, 4> numbers_of(const Raw& raw, std::size_t row, std::size_t rows) {
  std::array<float, 4> found{};
  if (const auto deltas = raw.find("box_deltas"); deltas != raw.end()) {
    std::copy_n(&deltas->second[row * 4], 4, found.begin());
    return found;
  }
  const auto& all = raw.at("box_distributions");
  const std::size_t bins = all.size() / (rows * 4);
  for (std::size_t side = 0; side < 4; ++side) {
    const float* own = &all[(row * 4 + side) * bins];
    const float top = *std::max_element(own, own + bins);
    float sum = 0, mean = 0;
    for (std::size_t bin = 0; bin < bins; ++bin) {
      const float share = std::exp(own[bin] - top);
      sum += share;
      mean += share * float(bin);
    }
    found[side] = mean / sum;
  }
  return found;
}

// The best pairs of a row and a class of one level, with their scores.
inline std::vector<Candidate> best_of_level(const Json& rule, const Raw& raw, std::size_t first, std::size_t count, int classes,
                                            std::vector<std::size_t>& rows) {
  const std::string scores = rule["scores"];
  const float threshold = rule["score_threshold"];
  const auto& logits = raw.at("class_logits");
  const auto quality = raw.find("quality");
  const auto trust = [&](std::size_t row) { return quality == raw.end() ? 1.0f : sigmoid(quality->second[row]); };
  std::vector<std::pair<Candidate, std::size_t>> found;
  for (std::size_t row = first; row < first + count; ++row) {
    const float* own = &logits[row * classes];
    const int likeliest = int(std::max_element(own, own + classes) - own);
    for (int label = 0; label < classes; ++label) {
      if (scores == "likeliest" && label != likeliest) continue;
      float score = sigmoid(own[label]);
      if (scores == "likeliest") score *= trust(row);
      if (scores == "mean" && quality != raw.end()) score = std::sqrt(score * trust(row));
      if (score > threshold) found.push_back({{{}, score, label}, row});
    }
  }
  std::stable_sort(found.begin(), found.end(), [](const auto& a, const auto& b) { return a.first.score > b.first.score; });
  found.resize(std::min<std::size_t>(found.size(), rule["candidates"]));
  std::vector<Candidate> kept;
  rows.clear();
  for (auto& [one, row] : found) {
    if (scores == "class_first") one.score *= trust(row);
    kept.push_back(one);
    rows.push_back(row);
  }
  return kept;
}

inline Box clipped(Box box, float width, float height) {
  for (int side = 0; side < 4; ++side) box[side] = std::clamp(box[side], 0.0f, side % 2 ? height : width);
  return box;
}

inline std::vector<Candidate> candidates_of(const Json& contract, const Raw& raw) {
  const Json &rule = contract["decoding"], &size = contract["preprocessing"];
  const float width = size["width"], height = size["height"];
  const int classes = int(contract["classes"].size());
  const std::size_t rows = raw.at("class_logits").size() / classes;
  std::vector<Candidate> all;
  std::size_t first = 0;
  for (const Json& level : rule["levels"]) {
    const std::size_t anchors = level["anchors"].size(), across = level["width"], down = level["height"], count = anchors * across * down;
    std::vector<std::size_t> chosen;
    auto found = best_of_level(rule, raw, first, count, classes, chosen);
    for (std::size_t index = 0; index < found.size(); ++index) {
      const std::size_t own = chosen[index] - first, place = own / anchors;
      const float x = float(place % across) * float(level["step"][0]), y = float(place / across) * float(level["step"][1]);
      Box anchor{};
      for (int side = 0; side < 4; ++side) anchor[side] = float(level["anchors"][own % anchors][side]) + (side % 2 ? y : x);
      found[index].box = decoded(rule["code"], numbers_of(raw, chosen[index], rows).data(), anchor);
      const Box inside = clipped(found[index].box, width, height);
      if (rule["scores"] != "mean" && !(inside[2] > inside[0] && inside[3] > inside[1])) continue;
      if (rule["scores"] != "likeliest") found[index].box = inside;
      if (found[index].score > 0) all.push_back(found[index]);
    }
    first += count;
  }
  return all;
}

// The objects of an image, the most certain first.
inline std::vector<Detection> detections(const Json& contract, const Raw& raw, const Image& image, const Placement& place) {
  const Json &rule = contract["decoding"], &size = contract["preprocessing"];
  auto all = candidates_of(contract, raw);
  std::stable_sort(all.begin(), all.end(), [](const auto& a, const auto& b) { return a.score > b.score; });
  std::vector<Candidate> kept;
  for (const Candidate& one : all) {
    if (kept.size() == std::size_t(rule["max_detections"])) break;
    const auto suppresses = [&](const Candidate& better) {
      return (rule["agnostic"].get<bool>() || better.label == one.label) && overlap(better.box, one.box) > float(rule["iou_threshold"]);
    };
    if (std::none_of(kept.begin(), kept.end(), suppresses)) kept.push_back(one);
  }
  const double scale[] = {double(place.wide) / image.width, double(place.high) / image.height};
  std::vector<Detection> found;
  for (const Candidate& one : kept) {
    const Box box = clipped(one.box, size["width"], size["height"]);
    Detection made{one.label, one.score, {}};
    for (int side = 0; side < 4; ++side)
      made.box[side] = std::clamp((double(box[side]) - (side % 2 ? place.top : place.left)) / scale[side % 2], 0.0,
                                  double(side % 2 ? image.height : image.width));
    found.push_back(made);
  }
  return found;
}

// Refuses outputs that are not those of the contract.
inline void check(const Json& contract, const Raw& raw) {
  std::size_t rows = 0;
  for (const Json& level : contract["decoding"]["levels"]) rows += std::size_t(level["width"]) * std::size_t(level["height"]) * level["anchors"].size();
  for (const Json& name : contract["decoding"]["outputs"]) {
    const auto own = raw.find(name.get<std::string>());
    const std::size_t wide = name == "class_logits" ? contract["classes"].size() : name == "quality" ? 1 : 4;
    const bool fits = own != raw.end() && !own->second.empty() && own->second.size() % (rows * wide) == 0 &&
                      (name == "box_distributions" || own->second.size() == rows * wide);
    if (!fits) throw std::runtime_error("the engine's " + name.get<std::string>() + " is not that of the contract");
    if (!std::all_of(own->second.begin(), own->second.end(), [](float one) { return std::isfinite(one); }))
      throw std::runtime_error("the engine's " + name.get<std::string>() + " is not finite");
  }
}

inline void print(const Json& contract, const std::vector<Detection>& found) {
  for (const Detection& one : found)
    std::printf("%s %.6f %.4f %.4f %.4f %.4f\n", contract["classes"][one.label].get<std::string>().c_str(), one.score, one.box[0], one.box[1],
                one.box[2], one.box[3]);
}

}  // namespace edge
