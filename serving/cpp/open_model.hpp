// How the programs here name an engine: KIND MODEL, with the header compiled in where GENERATED_HEADER says so.
#pragma once

#include <cstdlib>
#include <cstring>
#include <fstream>

#include "track_model.hpp"

#ifdef GENERATED_HEADER
#include GENERATED_HEADER
#endif

namespace trackkeras {

#ifdef GENERATED_HEADER
/// The generated header as a TrackModel; `with_jacobian` adds an output of that name.
class GeneratedModel final : public TrackModel {
 public:
  explicit GeneratedModel(bool with_jacobian) : with_jacobian_(with_jacobian) {
    for (const auto& tensor : GENERATED::inputs) inputs_.push_back({tensor.name, std::size_t(tensor.columns)});
    for (const auto& tensor : GENERATED::outputs) outputs_.push_back({tensor.name, std::size_t(tensor.columns)});
    if (with_jacobian) outputs_.push_back({"jacobian", std::size_t(GENERATED::detail::results * GENERATED::detail::tangents)});
  }
  void run(const std::vector<const float*>& in, std::size_t rows, const std::vector<float*>& out) const override {
    const auto* functions = GENERATED::detail::chosen.load(std::memory_order_relaxed);
    if (with_jacobian_)
      functions->many_with_jacobian(in.data(), out[0], out[1], rows);
    else
      functions->many(in.data(), out[0], rows);
  }

 private:
  bool with_jacobian_;
};

/// `name`: best, portable, avx2 or avx512, with `+jacobian` behind it for the derivatives.
inline std::unique_ptr<TrackModel> open_generated(std::string name) {
  const std::string suffix = "+jacobian";
  const bool with_jacobian = name.size() > suffix.size() && name.substr(name.size() - suffix.size()) == suffix;
  if (with_jacobian) name.resize(name.size() - suffix.size());
  if (!GENERATED::intact()) throw Error("the header's numbers are not those that were exported");
  using Set = GENERATED::InstructionSet;
  const std::pair<const char*, Set> sets[] = {
      {"portable", Set::portable}, {"avx2", Set::avx2}, {"avx512", Set::avx512}};
  bool found = name == "best";
  for (const auto& [text, set] : sets) {
    if (name == text) found = GENERATED::use(set);
  }
  if (!found) throw Error("this processor has no instruction set '" + name + "'");
  return std::make_unique<GeneratedModel>(with_jacobian);
}
#endif

inline std::unique_ptr<TrackModel> open_model(const std::string& kind, const std::string& model,
                                              const EngineOptions& options) {
  if (kind == "onnx") return open_onnx(model, options);
  if (kind == "saved_model") return open_saved_model(model, options);
#ifdef GENERATED_HEADER
  if (kind == "generated") return open_generated(model);
#endif
  throw Error("no engine '" + kind + "' in this program; there are: onnx, saved_model"
#ifdef GENERATED_HEADER
              ", generated"
#endif
  );
}

/// Read raw float32 numbers, little-endian, as NumPy's `tofile` writes them.
inline std::vector<float> read_numbers(const std::string& path) {
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  if (!file) throw Error("cannot read " + path);
  std::vector<float> numbers(static_cast<std::size_t>(file.tellg()) / sizeof(float));
  file.seekg(0).read(reinterpret_cast<char*>(numbers.data()), static_cast<std::streamsize>(numbers.size() * sizeof(float)));
  return numbers;
}

inline void write_numbers(const std::string& path, const std::vector<float>& numbers) {
  std::ofstream file(path, std::ios::binary);
  file.write(reinterpret_cast<const char*>(numbers.data()), static_cast<std::streamsize>(numbers.size() * sizeof(float)));
  if (!file.flush()) throw Error("cannot write " + path);
}

/// Read one column set per input from FOLDER/NAME.f32.
inline std::vector<std::vector<float>> read_inputs(const TrackModel& model, const std::string& folder, std::size_t& rows) {
  std::vector<std::vector<float>> columns;
  for (const auto& tensor : model.inputs()) {
    columns.push_back(read_numbers(folder + "/" + tensor.name + ".f32"));
    const std::size_t found = columns.back().size() / tensor.columns;
    if (found * tensor.columns != columns.back().size() || (columns.size() > 1 && found != rows))
      throw Error(tensor.name + ".f32 does not hold the same number of rows as the other inputs");
    rows = found;
  }
  return columns;
}

}  // namespace trackkeras
