// TrackModel over ONNX Runtime. Its C API is one table of functions to which versions only append; the few that
// are needed are called by their place in it, so no header of ONNX Runtime is needed.
#include <algorithm>

#include "shared_library.hpp"
#include "track_model.hpp"

namespace trackkeras {
namespace {

constexpr std::uint32_t api_version = 16;
/// Numbers of ONNX Runtime for the types of tensors.
constexpr std::pair<int, Type> types[] = {{1, Type::float32}, {6, Type::int32}};

// Objects of ONNX Runtime: opaque.
struct Status;
struct Env;
struct Session;
struct SessionOptions;
struct Value;
struct Allocator;
struct MemoryInfo;
struct TypeInfo;
struct ShapeInfo;
struct RunOptions;

enum Slot {
  get_error_message = 2,
  create_env = 3,
  create_session = 7,
  run_session = 9,
  create_session_options = 10,
  set_optimization_level = 23,
  set_intra_op_threads = 24,
  set_inter_op_threads = 25,
  input_count = 30,
  output_count = 31,
  input_type = 33,
  output_type = 34,
  input_name = 36,
  output_name = 37,
  create_tensor_with_data = 49,
  cast_type_to_shape = 55,
  element_type = 60,
  dimension_count = 61,
  dimensions = 62,
  create_cpu_memory_info = 69,
  allocator_free = 76,
  default_allocator = 78,
  release_env = 92,
  release_status = 93,
  release_memory_info = 94,
  release_session = 95,
  release_value = 96,
  release_type_info = 98,
  release_shape_info = 99,
  release_session_options = 100,
};

struct ApiBase {
  const void* const* (*get_api)(std::uint32_t version);
  const char* (*version)();
};

class Api {
 public:
  explicit Api(const SharedLibrary& library) {
    const ApiBase* (*get_base)() = nullptr;
    library.find(get_base, "OrtGetApiBase");
    table_ = get_base()->get_api(api_version);
    if (!table_) throw Error("this ONNX Runtime is too old: its C API has no version 16");
  }

  /// Call a function that returns a status; throw its message.
  template <class... Arguments>
  void call(Slot slot, Arguments... arguments) const {
    if (Status* status = function<Status*(Arguments...)>(slot)(arguments...)) {
      const std::string text = function<const char*(const Status*)>(get_error_message)(status);
      release(release_status, status);
      throw Error("ONNX Runtime: " + text.substr(0, text.find('\n')));
    }
  }

  template <class Object>
  void release(Slot slot, Object* object) const {
    if (object) function<void(Object*)>(slot)(object);
  }

 private:
  template <class Signature>
  Signature* function(Slot slot) const {
    return reinterpret_cast<Signature*>(const_cast<void*>(table_[slot]));
  }
  const void* const* table_;
};

/// An object that is released when it goes out of scope.
template <class Object>
struct Owned {
  const Api& api;
  Slot slot;
  Object* object = nullptr;
  Owned(const Api& a, Slot s) : api(a), slot(s) {}
  Owned(Owned&& other) noexcept : api(other.api), slot(other.slot), object(other.object) {
    other.object = nullptr;
  }
  Owned(const Owned&) = delete;
  ~Owned() { api.release(slot, object); }
};

class OnnxModel final : public TrackModel {
 public:
  OnnxModel(const std::string& file, const EngineOptions& options)
      : library_(options.library),
        api_(library_),
        env_(api_, release_env),
        memory_(api_, release_memory_info),
        session_(api_, release_session) {
    const int warning = 2, arena = 1, default_memory = 0, all_optimizations = 99;
    api_.call(create_env, warning, static_cast<const char*>("trackkeras"), &env_.object);
    Owned<SessionOptions> settings(api_, release_session_options);
    api_.call(create_session_options, &settings.object);
    api_.call(set_intra_op_threads, settings.object, options.threads);
    api_.call(set_inter_op_threads, settings.object, 1);
    api_.call(set_optimization_level, settings.object, all_optimizations);
    api_.call(create_session, env_.object, file.c_str(), settings.object, &session_.object);
    api_.call(create_cpu_memory_info, arena, default_memory, &memory_.object);
    read_tensors(input_count, input_name, input_type, inputs_);
    read_tensors(output_count, output_name, output_type, outputs_);
    for (const auto& tensor : inputs_) input_names_.push_back(tensor.name.c_str());
    for (const auto& tensor : outputs_) output_names_.push_back(tensor.name.c_str());
  }

  void run(const std::vector<const void*>& in, std::size_t rows,
           const std::vector<void*>& out) const override {
    if (in.size() != inputs_.size() || out.size() != outputs_.size())
      throw Error("run needs one array per input and output");
    if (rows == 0) return;
    std::vector<Owned<Value>> values;
    values.reserve(in.size() + out.size());
    std::vector<const Value*> feeds;
    std::vector<Value*> results;  // given, so that ONNX Runtime writes into them
    for (std::size_t i = 0; i < in.size(); ++i) feeds.push_back(wrap(const_cast<void*>(in[i]), rows, inputs_[i], values));
    for (std::size_t i = 0; i < out.size(); ++i) results.push_back(wrap(out[i], rows, outputs_[i], values));
    api_.call(run_session, session_.object, static_cast<const RunOptions*>(nullptr), input_names_.data(),
              static_cast<const Value* const*>(feeds.data()), feeds.size(), output_names_.data(),
              output_names_.size(), results.data());
  }

 private:
  Value* wrap(void* data, std::size_t rows, const TensorInfo& tensor, std::vector<Owned<Value>>& values) const {
    const std::vector<std::int64_t> shape = tensor.shape_of(rows);
    values.emplace_back(api_, release_value);
    api_.call(create_tensor_with_data, static_cast<const MemoryInfo*>(memory_.object), data,
              rows * tensor.columns * number_bytes, shape.data(), shape.size(),
              number_of(tensor.type), &values.back().object);
    return values.back().object;
  }

  static int number_of(Type type) {
    return std::find_if(std::begin(types), std::end(types), [type](const auto& entry) { return entry.second == type; })
        ->first;
  }

  std::vector<std::int64_t> sizes(const ShapeInfo* shape) const {
    std::size_t count = 0;
    api_.call(dimension_count, shape, &count);
    std::vector<std::int64_t> result(count);
    api_.call(dimensions, shape, result.data(), count);
    return result;
  }

  void read_tensors(Slot count_slot, Slot name_slot, Slot type_slot, std::vector<TensorInfo>& to) {
    const Session* session = session_.object;
    Allocator* allocator = nullptr;  // owned by ONNX Runtime
    api_.call(default_allocator, &allocator);
    std::size_t count = 0;
    api_.call(count_slot, session, &count);
    for (std::size_t i = 0; i < count; ++i) {
      char* name = nullptr;
      api_.call(name_slot, session, i, allocator, &name);
      TensorInfo tensor{name, 1};
      api_.call(allocator_free, allocator, static_cast<void*>(name));
      Owned<TypeInfo> type(api_, release_type_info);
      api_.call(type_slot, session, i, &type.object);
      const ShapeInfo* shape = nullptr;  // part of `type`
      api_.call(cast_type_to_shape, static_cast<const TypeInfo*>(type.object), &shape);
      int element = 0;
      if (shape) api_.call(element_type, shape, &element);
      const auto* type_entry = std::find_if(std::begin(types), std::end(types),
                                            [element](const auto& entry) { return entry.first == element; });
      if (type_entry == std::end(types)) throw Error(tensor.name + " is neither a float32 nor an int32 tensor");
      tensor.type = type_entry->second;
      const std::vector<std::int64_t> all = sizes(shape);
      for (std::size_t axis = 1; axis < all.size(); ++axis) {
        if (all[axis] < 1) throw Error(tensor.name + " has an axis without a fixed size");
        tensor.columns *= static_cast<std::size_t>(all[axis]);
        tensor.shape.push_back(all[axis]);
      }
      to.push_back(tensor);
    }
    std::sort(to.begin(), to.end(), [](const auto& a, const auto& b) { return a.name < b.name; });
  }

  SharedLibrary library_;
  Api api_;
  Owned<Env> env_;
  Owned<MemoryInfo> memory_;
  Owned<Session> session_;
  std::vector<const char*> input_names_, output_names_;
};

}  // namespace

std::unique_ptr<TrackModel> open_onnx(const std::string& file, const EngineOptions& options) {
  return std::make_unique<OnnxModel>(file, options);
}

}  // namespace trackkeras
