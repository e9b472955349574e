// TrackModel over a model server's REST API (version 1 of TensorFlow Serving), without any library.
#include <cmath>
#include <cstring>
#include <map>
#include <mutex>

#include "http_connection.hpp"
#include "json.hpp"
#include "track_model.hpp"

namespace trackkeras {
namespace {

/// http://HOST:PORT/PATH; an IPv6 address stands in brackets.
struct Url {
  std::string host, port, path;
};

Url parse(const std::string& text) {
  const std::string scheme = "http://";
  const std::size_t slash = text.find('/', scheme.size());
  const std::string place = text.substr(0, slash);
  const std::size_t colon = place.rfind(':');
  if (text.rfind(scheme, 0) != 0 || slash == std::string::npos || colon < scheme.size() || text.find("/v1/models/", slash) != slash)
    throw Error("a served model is http://HOST:PORT/v1/models/NAME, with /versions/N if need be; received " + text);
  std::string host = place.substr(scheme.size(), colon - scheme.size());
  if (host.size() > 2 && host.front() == '[') host = host.substr(1, host.size() - 2);
  return {host, place.substr(colon + 1), text.substr(slash)};
}

class RestModel final : public TrackModel {
 public:
  RestModel(const std::string& address, const EngineOptions& options)
      : url_(parse(address)), signature_(options.signature), connection_(url_.host, url_.port) {
    read_metadata(ask("GET", "/metadata", ""));
  }

  void run(const std::vector<const void*>& in, std::size_t rows, const std::vector<void*>& out) const override {
    if (in.size() != inputs_.size() || out.size() != outputs_.size())
      throw Error("run needs one array per input and output");
    if (rows == 0) return;
    std::string body = "{\"signature_name\": \"" + signature_ + "\", \"inputs\": {";
    for (std::size_t i = 0; i < in.size(); ++i) {
      body += (i ? ", \"" : "\"") + inputs_[i].name + "\": ";
      std::size_t place = 0;
      write(body, inputs_[i], in[i], inputs_[i].shape_of(rows), 0, place);
    }
    read_outputs(ask("POST", ":predict", body + "}}"), rows, out);
  }

 private:
  std::string ask(const std::string& method, const std::string& verb, const std::string& body) const {
    const std::lock_guard<std::mutex> lock(mutex_);
    const HttpAnswer answer = connection_.ask(method, url_.path + verb, body);
    if (answer.status == 200) return answer.body;
    std::string reason = answer.body.substr(0, 200);
    JsonReader reader(answer.body);
    if (reader.peek() == '{') {
      reader.object([&](const std::string& key) {
        if (key == "error") reason = reader.string();
        else reader.skip();
      });
    }
    throw Error("the server answers " + std::to_string(answer.status) + ": " + reason.substr(0, reason.find('\n')));
  }

  /// Lists within lists, as JSON; nine digits give a float32 back exactly.
  static void write(std::string& to, const TensorInfo& tensor, const void* numbers, const std::vector<std::int64_t>& shape,
                    std::size_t axis, std::size_t& place) {
    if (axis < shape.size()) {
      to += '[';
      for (std::int64_t i = 0; i < shape[axis]; ++i) {
        if (i) to += ',';
        write(to, tensor, numbers, shape, axis + 1, place);
      }
      to += ']';
      return;
    }
    char text[32];
    if (tensor.type == Type::int32) {
      std::snprintf(text, sizeof text, "%d", static_cast<const std::int32_t*>(numbers)[place++]);
    } else {
      const float value = static_cast<const float*>(numbers)[place++];
      if (!std::isfinite(value)) throw Error(tensor.name + " has a number that is not finite, which JSON cannot say");
      std::snprintf(text, sizeof text, "%.9g", static_cast<double>(value));
    }
    to += text;
  }

  static std::int32_t whole(double value) {
    if (!(std::abs(value) <= 2147483647.0)) throw Error("the server gives a number that is no int32");
    return static_cast<std::int32_t>(value);
  }

  void read_outputs(const std::string& body, std::size_t rows, const std::vector<void*>& out) const {
    std::map<std::string, std::vector<double>> found;
    JsonReader reader(body);
    reader.object([&](const std::string& key) {
      if (key != "outputs") return reader.skip();
      // The only output of a signature comes without its name.
      if (reader.peek() == '[') return reader.numbers(found[outputs_.front().name]);
      reader.object([&](const std::string& name) { reader.numbers(found[name]); });
    });
    for (std::size_t i = 0; i < out.size(); ++i) {
      const std::vector<double>& values = found[outputs_[i].name];
      if (values.size() != rows * outputs_[i].columns)
        throw Error("output " + outputs_[i].name + " has " + std::to_string(values.size()) + " numbers instead of " +
                    std::to_string(rows * outputs_[i].columns));
      if (outputs_[i].type == Type::float32)
        std::transform(values.begin(), values.end(), static_cast<float*>(out[i]), [](double v) { return static_cast<float>(v); });
      else
        std::transform(values.begin(), values.end(), static_cast<std::int32_t*>(out[i]), whole);
    }
  }

  void read_metadata(const std::string& body) {
    std::string names;
    bool known = false;
    JsonReader reader(body);
    const auto within = [&](const char* wanted, const auto& then) {
      reader.object([&](const std::string& key) {
        if (key == wanted) then();
        else reader.skip();
      });
    };
    within("metadata", [&] {
      within("signature_def", [&] {
        within("signature_def", [&] {
          reader.object([&](const std::string& name) {
            names += (names.empty() ? "" : ", ") + name;
            if (name != signature_) return reader.skip();
            known = true;
            reader.object([&](const std::string& side) {
              if (side == "inputs") read_side(reader, inputs_);
              else if (side == "outputs") read_side(reader, outputs_);
              else reader.skip();
            });
          });
        });
      });
    });
    if (!known) throw Error("the served model has no signature '" + signature_ + "'; it has: " + (names.empty() ? "none" : names));
  }

  static void read_side(JsonReader& reader, std::vector<TensorInfo>& to) {
    std::map<std::string, TensorInfo> tensors;
    reader.object([&](const std::string& name) {
      TensorInfo tensor{name, 1};
      std::string type;
      std::vector<std::int64_t> shape;
      reader.object([&](const std::string& key) {
        if (key == "dtype") {
          type = reader.string();
        } else if (key == "tensor_shape") {
          reader.object([&](const std::string& part) {
            if (part != "dim") return reader.skip();
            reader.list([&] {
              reader.object([&](const std::string& entry) {
                if (entry == "size") shape.push_back(reader.integer());
                else reader.skip();
              });
            });
          });
        } else {
          reader.skip();
        }
      });
      if (type != "DT_FLOAT" && type != "DT_INT32") throw Error(name + " is neither a float32 nor an int32 tensor");
      tensor.type = type == "DT_FLOAT" ? Type::float32 : Type::int32;
      for (std::size_t axis = 1; axis < shape.size(); ++axis) {
        if (shape[axis] < 1) throw Error(name + " has an axis without a fixed size");
        tensor.columns *= static_cast<std::size_t>(shape[axis]);
        tensor.shape.push_back(shape[axis]);
      }
      tensors.emplace(name, tensor);
    });
    for (const auto& [name, tensor] : tensors) to.push_back(tensor);
  }

  Url url_;
  std::string signature_;
  mutable std::mutex mutex_;
  mutable HttpConnection connection_;
};

}  // namespace

std::unique_ptr<TrackModel> open_rest(const std::string& address, const EngineOptions& options) {
  return std::make_unique<RestModel>(address, options);
}

}  // namespace trackkeras
