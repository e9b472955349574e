// TrackModel over a SavedModel, by the C API that TensorFlow's shared libraries export. The functions are declared
// here and found at run time, so no header of TensorFlow is needed.
#include <algorithm>
#include <cstring>
#include <map>
#include <string_view>

#include "shared_library.hpp"
#include "track_model.hpp"

namespace trackkeras {
namespace {

/// Numbers of tensorflow.DataType.
constexpr int type_number(Type type) { return type == Type::float32 ? 1 : 3; }

// Objects of the C API: opaque, but for two that callers fill in.
struct Status;
struct Graph;
struct Session;
struct SessionOptions;
struct Operation;
struct Tensor;
struct Buffer {
  const void* data;
  std::size_t length;
  void (*deallocator)(void*, std::size_t);
};
struct Output {
  Operation* operation;
  int index;
};

struct Api {
  explicit Api(const std::string& library) : framework(beside(library, "libtensorflow_framework.so.2")), cc(library) {
    cc.find(new_status, "TF_NewStatus");
    cc.find(delete_status, "TF_DeleteStatus");
    cc.find(code, "TF_GetCode");
    cc.find(message, "TF_Message");
    cc.find(new_graph, "TF_NewGraph");
    cc.find(delete_graph, "TF_DeleteGraph");
    cc.find(operation_by_name, "TF_GraphOperationByName");
    cc.find(new_options, "TF_NewSessionOptions");
    cc.find(delete_options, "TF_DeleteSessionOptions");
    cc.find(set_config, "TF_SetConfig");
    cc.find(new_buffer, "TF_NewBuffer");
    cc.find(delete_buffer, "TF_DeleteBuffer");
    cc.find(load_session, "TF_LoadSessionFromSavedModel");
    cc.find(close_session, "TF_CloseSession");
    cc.find(delete_session, "TF_DeleteSession");
    cc.find(session_run, "TF_SessionRun");
    cc.find(allocate_tensor, "TF_AllocateTensor");
    cc.find(delete_tensor, "TF_DeleteTensor");
    cc.find(tensor_data, "TF_TensorData");
    cc.find(tensor_bytes, "TF_TensorByteSize");
    cc.find(tensor_type, "TF_TensorType");
  }

  static std::string beside(const std::string& library, const std::string& name) {
    return library.substr(0, library.rfind('/') + 1) + name;
  }

  SharedLibrary framework, cc;
  Status* (*new_status)();
  void (*delete_status)(Status*);
  int (*code)(const Status*);
  const char* (*message)(const Status*);
  Graph* (*new_graph)();
  void (*delete_graph)(Graph*);
  Operation* (*operation_by_name)(Graph*, const char*);
  SessionOptions* (*new_options)();
  void (*delete_options)(SessionOptions*);
  void (*set_config)(SessionOptions*, const void*, std::size_t, Status*);
  Buffer* (*new_buffer)();
  void (*delete_buffer)(Buffer*);
  Session* (*load_session)(const SessionOptions*, const Buffer*, const char*, const char* const*, int, Graph*,
                           Buffer*, Status*);
  void (*close_session)(Session*, Status*);
  void (*delete_session)(Session*, Status*);
  void (*session_run)(Session*, const Buffer*, const Output*, Tensor* const*, int, const Output*, Tensor**, int,
                      const Operation* const*, int, Buffer*, Status*);
  Tensor* (*allocate_tensor)(int, const std::int64_t*, int, std::size_t);
  void (*delete_tensor)(Tensor*);
  void* (*tensor_data)(const Tensor*);
  std::size_t (*tensor_bytes)(const Tensor*);
  int (*tensor_type)(const Tensor*);
};

/// Fields of a protobuf message, one after the other: enough to find a signature in a MetaGraphDef.
class Fields {
 public:
  explicit Fields(std::string_view bytes) : rest_(bytes) {}
  int number = 0;
  std::uint64_t value = 0;     // of a varint
  std::string_view content;    // of a string or message

  bool next() {
    if (rest_.empty()) return false;
    const std::uint64_t key = varint();
    number = static_cast<int>(key >> 3);
    switch (key & 7) {
      case 0: value = varint(); break;
      case 1: take(8); break;
      case 2: content = take(varint()); break;
      case 5: take(4); break;
      default: throw Error("the SavedModel's description is damaged");
    }
    return true;
  }

 private:
  std::uint64_t varint() {
    std::uint64_t result = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      const auto byte = static_cast<unsigned char>(take(1)[0]);
      result |= static_cast<std::uint64_t>(byte & 0x7f) << shift;
      if (byte < 0x80) return result;
    }
    throw Error("the SavedModel's description is damaged");
  }
  std::string_view take(std::uint64_t count) {
    if (count > rest_.size()) throw Error("the SavedModel's description is damaged");
    const std::string_view part = rest_.substr(0, count);
    rest_.remove_prefix(count);
    return part;
  }
  std::string_view rest_;
};

std::string_view field(std::string_view message, int number) {
  for (Fields fields(message); fields.next();) {
    if (fields.number == number) return fields.content;
  }
  return {};
}

/// An entry of a signature: `graph_name` is `operation:index`.
struct Entry {
  std::string graph_name;
  TensorInfo tensor;
};

Entry read_entry(const std::string& name, std::string_view info) {
  Entry entry{{}, {name, 1}};
  std::uint64_t type = 0;
  std::vector<std::int64_t> shape;
  for (Fields fields(info); fields.next();) {
    if (fields.number == 1) entry.graph_name = std::string(fields.content);
    if (fields.number == 2) type = fields.value;
    if (fields.number == 3) {
      for (Fields dims(fields.content); dims.next();) {
        if (dims.number != 2) continue;
        std::int64_t size = 0;
        for (Fields dim(dims.content); dim.next();) {
          if (dim.number == 1) size = static_cast<std::int64_t>(dim.value);
        }
        shape.push_back(size);
      }
    }
  }
  for (const Type known : {Type::float32, Type::int32}) {
    if (type == static_cast<std::uint64_t>(type_number(known))) entry.tensor.type = known;
  }
  if (type != static_cast<std::uint64_t>(type_number(entry.tensor.type)))
    throw Error(name + " is neither a float32 nor an int32 tensor");
  for (std::size_t axis = 1; axis < shape.size(); ++axis) {
    if (shape[axis] < 1) throw Error(name + " has an axis without a fixed size");
    entry.tensor.columns *= static_cast<std::size_t>(shape[axis]);
    entry.tensor.shape.push_back(shape[axis]);
  }
  return entry;
}

class SavedModel final : public TrackModel {
 public:
  SavedModel(const std::string& folder, const EngineOptions& options) : api_(options.library) {
    const CallStatus status(api_);
    SessionOptions* settings = api_.new_options();
    // ConfigProto: intra_op_parallelism_threads (2) and inter_op_parallelism_threads (5) = threads,
    // use_per_session_threads (9) = true
    const unsigned char threads = static_cast<unsigned char>(std::clamp(options.threads, 1, 127));
    const unsigned char config[] = {0x10, threads, 0x28, threads, 0x48, 0x01};
    api_.set_config(settings, config, sizeof config, status.object);
    graph_ = api_.new_graph();
    Buffer* description = api_.new_buffer();
    const char* const tags[] = {"serve"};
    session_ = api_.load_session(settings, nullptr, folder.c_str(), tags, 1, graph_, description, status.object);
    api_.delete_options(settings);
    const std::string bytes(static_cast<const char*>(description->data), session_ ? description->length : 0);
    api_.delete_buffer(description);
    try {
      status.check();
      read_signature(bytes, options.signature);
    } catch (...) {
      close();
      throw;
    }
  }
  ~SavedModel() override { close(); }

  void run(const std::vector<const void*>& in, std::size_t rows,
           const std::vector<void*>& out) const override {
    if (in.size() != inputs_.size() || out.size() != outputs_.size())
      throw Error("run needs one array per input and output");
    if (rows == 0) return;
    Tensors feeds(api_), results(api_);
    for (std::size_t i = 0; i < in.size(); ++i) {
      const std::vector<std::int64_t> shape = inputs_[i].shape_of(rows);
      const std::size_t bytes = rows * inputs_[i].columns * number_bytes;
      feeds.all.push_back(api_.allocate_tensor(type_number(inputs_[i].type), shape.data(), static_cast<int>(shape.size()), bytes));
      std::memcpy(api_.tensor_data(feeds.all.back()), in[i], bytes);
    }
    results.all.assign(out.size(), nullptr);
    const CallStatus status(api_);
    api_.session_run(session_, nullptr, feed_places_.data(), feeds.all.data(), static_cast<int>(in.size()),
                     fetch_places_.data(), results.all.data(), static_cast<int>(out.size()), nullptr, 0, nullptr,
                     status.object);
    status.check();
    for (std::size_t i = 0; i < out.size(); ++i) {
      const std::size_t bytes = rows * outputs_[i].columns * number_bytes;
      if (api_.tensor_type(results.all[i]) != type_number(outputs_[i].type) || api_.tensor_bytes(results.all[i]) != bytes)
        throw Error("output " + outputs_[i].name + " has an unexpected type or number of values");
      std::memcpy(out[i], api_.tensor_data(results.all[i]), bytes);
    }
  }

 private:
  struct CallStatus {
    explicit CallStatus(const Api& a) : api(a), object(a.new_status()) {}
    CallStatus(const CallStatus&) = delete;
    ~CallStatus() { api.delete_status(object); }
    void check() const {
      if (api.code(object) == 0) return;
      std::string text = api.message(object);
      throw Error("TensorFlow: " + text.substr(0, text.find('\n')));
    }
    const Api& api;
    Status* object;
  };

  struct Tensors {
    explicit Tensors(const Api& a) : api(a) {}
    Tensors(const Tensors&) = delete;
    ~Tensors() {
      for (Tensor* tensor : all) {
        if (tensor) api.delete_tensor(tensor);
      }
    }
    const Api& api;
    std::vector<Tensor*> all;
  };

  void close() {
    const CallStatus status(api_);
    if (session_) {
      api_.close_session(session_, status.object);
      api_.delete_session(session_, status.object);
    }
    if (graph_) api_.delete_graph(graph_);
    session_ = nullptr;
    graph_ = nullptr;
  }

  void read_signature(std::string_view description, const std::string& wanted) {
    std::string names;
    for (Fields fields(description); fields.next();) {
      if (fields.number != 5) continue;  // MetaGraphDef.signature_def: a map
      const std::string name(field(fields.content, 1));
      names += (names.empty() ? "" : ", ") + name;
      if (name != wanted) continue;
      const std::string_view signature = field(fields.content, 2);
      read_side(signature, 1, inputs_, feed_places_);
      read_side(signature, 2, outputs_, fetch_places_);
      return;
    }
    throw Error("the SavedModel has no signature '" + wanted + "'; it has: " + names);
  }

  void read_side(std::string_view signature, int side, std::vector<TensorInfo>& to, std::vector<Output>& places) {
    std::map<std::string, Entry> entries;
    for (Fields fields(signature); fields.next();) {
      if (fields.number != side) continue;
      const std::string name(field(fields.content, 1));
      entries[name] = read_entry(name, field(fields.content, 2));
    }
    for (const auto& [name, entry] : entries) {
      const auto colon = entry.graph_name.rfind(':');
      Operation* operation = api_.operation_by_name(graph_, entry.graph_name.substr(0, colon).c_str());
      if (!operation) throw Error("the graph has no operation " + entry.graph_name);
      places.push_back({operation, colon == std::string::npos ? 0 : std::stoi(entry.graph_name.substr(colon + 1))});
      to.push_back(entry.tensor);
    }
  }

  Api api_;
  Graph* graph_ = nullptr;
  Session* session_ = nullptr;
  std::vector<Output> feed_places_, fetch_places_;
};

}  // namespace

std::unique_ptr<TrackModel> open_saved_model(const std::string& folder, const EngineOptions& options) {
  return std::make_unique<SavedModel>(folder, options);
}

}  // namespace trackkeras
