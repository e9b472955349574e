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
/// The generated header as a TrackModel; its second signature has the Jacobian too.
class GeneratedModel final : public TrackModel {
 public:
  explicit GeneratedModel(bool with_jacobian) : with_jacobian_(with_jacobian) {
    for (const auto& tensor : GENERATED::inputs) inputs_.push_back({tensor.name, std::size_t(tensor.columns)});
    for (const auto& tensor : GENERATED::outputs) outputs_.push_back({tensor.name, std::size_t(tensor.columns)});
    if (with_jacobian) outputs_.push_back({"jacobian", std::size_t(GENERATED::detail::results * GENERATED::detail::tangents)});
  }
  void run(const std::vector<const void*>& in, std::size_t rows, const std::vector<void*>& out) const override {
    const auto* functions = GENERATED::detail::chosen.load(std::memory_order_relaxed);
    std::vector<const float*> numbers;
    for (const void* column : in) numbers.push_back(static_cast<const float*>(column));
    auto* result = static_cast<float*>(out[0]);
    if (with_jacobian_)
      functions->many_with_jacobian(numbers.data(), result, static_cast<float*>(out[1]), rows);
    else
      functions->many(numbers.data(), result, rows);
  }

 private:
  bool with_jacobian_;
};

/// `name`: best, portable, avx2 or avx512.
inline std::unique_ptr<TrackModel> open_generated(const std::string& name, const std::string& signature) {
  const bool with_jacobian = signature == GENERATED::signatures[1];
  if (!with_jacobian && signature != GENERATED::signatures[0])
    throw Error("the header has no signature '" + signature + "'; it has: " + GENERATED::signatures[0] + ", " +
                GENERATED::signatures[1]);
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
  if (kind == "rest") return open_rest(model, options);
#ifdef GENERATED_HEADER
  if (kind == "generated") return open_generated(model, options.signature);
#endif
  throw Error("no engine '" + kind + "' in this program; there are: onnx, saved_model, rest"
#ifdef GENERATED_HEADER
              ", generated"
#endif
  );
}

/// The raw numbers of a tensor, little-endian, as NumPy's `tofile` writes them: of either type four bytes each.
using Numbers = std::vector<std::uint32_t>;

/// FOLDER/NAME.f32 or FOLDER/NAME.i32, after the tensor's type.
inline std::string file_of(const TensorInfo& tensor, const std::string& folder) {
  return folder + "/" + tensor.name + (tensor.type == Type::float32 ? ".f32" : ".i32");
}

inline Numbers read_numbers(const std::string& path) {
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  if (!file) throw Error("cannot read " + path);
  Numbers numbers(static_cast<std::size_t>(file.tellg()) / number_bytes);
  file.seekg(0).read(reinterpret_cast<char*>(numbers.data()), static_cast<std::streamsize>(numbers.size() * number_bytes));
  return numbers;
}

inline void write_numbers(const std::string& path, const Numbers& numbers) {
  std::ofstream file(path, std::ios::binary);
  file.write(reinterpret_cast<const char*>(numbers.data()), static_cast<std::streamsize>(numbers.size() * number_bytes));
  if (!file.flush()) throw Error("cannot write " + path);
}

/// Read one column set per input.
inline std::vector<Numbers> read_inputs(const TrackModel& model, const std::string& folder, std::size_t& rows) {
  std::vector<Numbers> columns;
  for (const auto& tensor : model.inputs()) {
    const std::string path = file_of(tensor, folder);
    columns.push_back(read_numbers(path));
    const std::size_t found = columns.back().size() / tensor.columns;
    if (found * tensor.columns != columns.back().size() || (columns.size() > 1 && found != rows))
      throw Error(path.substr(folder.size() + 1) + " does not hold the same number of rows as the other inputs");
    rows = found;
  }
  return columns;
}

}  // namespace trackkeras
