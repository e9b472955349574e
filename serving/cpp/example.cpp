// One track through an exported network, for reading:
//
//   example onnx BUNDLE/model.onnx LIBRARY      LIBRARY: `python -m serving.native onnxruntime`
//   example saved_model BUNDLE LIBRARY          LIBRARY: `python -m serving.native tensorflow`
//   example rest http://127.0.0.1:8501/v1/models/NAME
#include <cstdio>
#include <iostream>

#include "track_model.hpp"

int main(int count, char** words) {
  const std::string kind = count > 1 ? words[1] : "";
  if (count != (kind == "rest" ? 3 : 4)) {
    std::cerr << "usage: example onnx|saved_model MODEL LIBRARY, or example rest ADDRESS\n";
    return 2;
  }
  try {
    trackkeras::EngineOptions options;
    if (count == 4) options.library = words[3];
    const auto model = kind == "onnx"   ? trackkeras::open_onnx(words[2], options)
                       : kind == "rest" ? trackkeras::open_rest(words[2], options)
                                        : trackkeras::open_saved_model(words[2], options);

    // A positive track of 10 GeV, from behind the vertex detector to behind the magnet.
    const float state[] = {100.0f, -50.0f, 0.05f, -0.02f, 1e-4f};  // x, y [mm], tx, ty, q/p [1/MeV]
    const float z0[] = {2665.0f}, dz[] = {5161.0f};                // [mm]
    std::vector<const void*> in;
    for (const auto& tensor : model->inputs())
      in.push_back(tensor.name == "state" ? state : tensor.name == "z0" ? z0 : dz);
    float final_state[5];
    model->run(in, 1, {final_state});
    std::printf("x %.3f mm  y %.3f mm  tx %.6f  ty %.6f  q/p %g 1/MeV\n", final_state[0], final_state[1],
                final_state[2], final_state[3], final_state[4]);
    return 0;
  } catch (const std::exception& error) {
    std::cerr << "error: " << error.what() << "\n";
    return 2;
  }
}
