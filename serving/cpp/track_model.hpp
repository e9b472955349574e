// One class over several engines: named inputs and outputs in physical units, one row per track or event.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

namespace trackkeras {

/// What a program got wrong, in one line.
struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// Type of the numbers of a tensor: float or std::int32_t, four bytes each.
enum class Type { float32, int32 };
constexpr std::size_t number_bytes = 4;

/// An input or output: its name in the signature, how many numbers a row has, their type, and the shape of a row.
struct TensorInfo {
  std::string name;
  std::size_t columns;
  Type type = Type::float32;
  std::vector<std::int64_t> shape = {};

  /// Shape of so many rows.
  std::vector<std::int64_t> shape_of(std::size_t rows) const {
    std::vector<std::int64_t> all = {static_cast<std::int64_t>(rows)};
    all.insert(all.end(), shape.begin(), shape.end());
    return all;
  }
};

/// A loaded network. `run` may be called from several threads at once.
class TrackModel {
 public:
  virtual ~TrackModel() = default;

  /// Inputs and outputs; their order is that of the arrays that `run` takes.
  const std::vector<TensorInfo>& inputs() const { return inputs_; }
  const std::vector<TensorInfo>& outputs() const { return outputs_; }

  /// Run `rows` rows: one array of rows x columns per input and output, in the order of `inputs`, `outputs`;
  /// an array holds numbers of its tensor's type.
  virtual void run(const std::vector<const void*>& in, std::size_t rows,
                   const std::vector<void*>& out) const = 0;

 protected:
  std::vector<TensorInfo> inputs_, outputs_;
};

struct EngineOptions {
  std::string library;                        ///< Path of the engine's shared library; `open_rest` needs none.
  std::string signature = "serving_default";  ///< An ONNX file holds one; not for it.
  int threads = 1;
};

/// Open an ONNX file with ONNX Runtime's shared library.
std::unique_ptr<TrackModel> open_onnx(const std::string& file, const EngineOptions& options);

/// Open a SavedModel folder with the C API of TensorFlow's shared libraries.
std::unique_ptr<TrackModel> open_saved_model(const std::string& folder, const EngineOptions& options);

/// Ask a model server over REST: `http://HOST:PORT/v1/models/NAME`, with `/versions/N` for a fixed version. Needs no
/// library; threads take turns on one connection.
std::unique_ptr<TrackModel> open_rest(const std::string& address, const EngineOptions& options);

}  // namespace trackkeras
