// A shared library that is opened at run time, so that programs build without it.
#pragma once

#include <dlfcn.h>

#include <string>

#include "track_model.hpp"

namespace trackkeras {

class SharedLibrary {
 public:
  explicit SharedLibrary(const std::string& path) : handle_(dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL)) {
    if (!handle_) throw Error("cannot open the library " + path + ": " + dlerror());
  }
  SharedLibrary(const SharedLibrary&) = delete;
  SharedLibrary& operator=(const SharedLibrary&) = delete;
  // Engines leave threads and static objects behind: their libraries stay loaded until the process ends.

  template <class Function>
  void find(Function*& function, const char* name) const {
    function = reinterpret_cast<Function*>(dlsym(handle_, name));
    if (!function) throw Error(std::string("the library has no function ") + name);
  }

 private:
  void* handle_;
};

}  // namespace trackkeras
