// Propagate tracks through a field map, and time it.
//
//   propagate GRID METHOD VALUE FOLDER [REPEATS]
//
// METHOD VALUE is `rk4 STEP` [mm] or `adaptive TOLERANCE` [mm]. Reads FOLDER/{state,z0,dz}.f32, writes
// FOLDER/final_state.f64 (raw float64, NaN for a track that leaves the map) and prints one line of JSON. One thread.
#include <chrono>
#include <iostream>

#include "propagation.hpp"

using namespace trackkeras;

static std::vector<float> read_numbers(const std::string& path) {
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  if (!file) throw Error("cannot read " + path);
  std::vector<float> numbers(static_cast<std::size_t>(file.tellg()) / sizeof(float));
  file.seekg(0).read(reinterpret_cast<char*>(numbers.data()), static_cast<std::streamsize>(numbers.size() * sizeof(float)));
  return numbers;
}

static int propagate(int count, char** words) {
  if (count < 5) throw Error("usage: propagate GRID rk4|adaptive VALUE FOLDER [REPEATS]");
  const std::string method = words[2], folder = words[4];
  const double value = std::atof(words[3]);
  const int repeats = count > 5 ? std::atoi(words[5]) : 1;
  if (method != "rk4" && method != "adaptive") throw Error("no method '" + method + "'; there are: rk4, adaptive");
  if (!(value > 0.0)) throw Error("step or tolerance must be positive");
  const FieldGrid grid(words[1]);
  const std::vector<float> states = read_numbers(folder + "/state.f32"), z0 = read_numbers(folder + "/z0.f32"),
                           dz = read_numbers(folder + "/dz.f32");
  const std::size_t rows = z0.size();
  if (states.size() != 5 * rows || dz.size() != rows) throw Error("state, z0 and dz have different numbers of rows");
  std::vector<State> result(rows);
  std::vector<double> times;
  std::size_t lost = 0;
  for (int repeat = 0; repeat < repeats; ++repeat) {
    lost = 0;
    const auto start = std::chrono::steady_clock::now();
    for (std::size_t row = 0; row < rows; ++row) {
      State& state = result[row];
      std::copy_n(states.data() + 5 * row, 5, state.begin());
      const bool inside = method == "rk4" ? propagate_rk4(grid, state, z0[row], dz[row], value)
                                          : propagate_adaptive(grid, state, z0[row], dz[row], value);
      if (!inside) {
        state.fill(std::numeric_limits<double>::quiet_NaN());
        ++lost;
      }
    }
    times.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  std::sort(times.begin(), times.end());
  std::ofstream file(folder + "/final_state.f64", std::ios::binary);
  file.write(reinterpret_cast<const char*>(result.data()), static_cast<std::streamsize>(rows * sizeof(State)));
  if (!file.flush()) throw Error("cannot write " + folder + "/final_state.f64");
  std::printf("{\"method\": \"%s\", \"value_mm\": %g, \"nodes\": [%zu, %zu, %zu], \"tracks\": %zu, \"lost\": %zu, \"us_per_track\": %.4f}\n",
              method.c_str(), value, grid.nodes()[0], grid.nodes()[1], grid.nodes()[2], rows, lost,
              1e6 * times[times.size() / 2] / static_cast<double>(std::max<std::size_t>(rows, 1)));
  return 0;
}

int main(int count, char** words) {
  try {
    return propagate(count, words);
  } catch (const std::exception& error) {
    std::cerr << "error: " << error.what() << "\n";
    return 2;
  }
}
