// Propagate tracks through a field map, and time it.
//
//   propagate GRID METHOD VALUE FOLDER [REPEATS]
//
// METHOD VALUE is `rk4 STEP` [mm] or `adaptive TOLERANCE` [mm]. Reads FOLDER/{state,z0,dz}.f32, writes
// FOLDER/final_state.f64 (raw float64, NaN for a track that leaves the map) and prints one line of JSON: the mean time per
// track, median and 95th percentile over groups of 64 tracks, and the memory of the map. One thread.
#include <chrono>
#include <cmath>
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

constexpr std::size_t group = 64;  // tracks between two looks at the clock

static double seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

/// Resident memory of this process [MB].
static double resident_mb() {
  std::ifstream file("/proc/self/status");
  for (std::string line; std::getline(file, line);) {
    if (line.rfind("VmRSS:", 0) == 0) return std::atof(line.c_str() + 6) / 1024.0;
  }
  return 0.0;
}

/// The value below which a share of some values lies; 0 of none.
static double quantile(std::vector<double>& values, double share) {
  if (values.empty()) return 0.0;
  const auto place = values.begin() + static_cast<std::ptrdiff_t>(std::lround(share * static_cast<double>(values.size() - 1)));
  std::nth_element(values.begin(), place, values.end());
  return *place;
}

static int propagate(int count, char** words) {
  if (count < 5) throw Error("usage: propagate GRID rk4|adaptive VALUE FOLDER [REPEATS]");
  const std::string method = words[2], folder = words[4];
  const double value = std::atof(words[3]);
  const int repeats = count > 5 ? std::atoi(words[5]) : 1;
  if (method != "rk4" && method != "adaptive") throw Error("no method '" + method + "'; there are: rk4, adaptive");
  if (!(value > 0.0)) throw Error("step or tolerance must be positive");
  const double before = resident_mb();
  const FieldGrid grid(words[1]);
  const double memory_mb = resident_mb() - before;
  const std::vector<float> states = read_numbers(folder + "/state.f32"), z0 = read_numbers(folder + "/z0.f32"),
                           dz = read_numbers(folder + "/dz.f32");
  const std::size_t rows = z0.size();
  if (states.size() != 5 * rows || dz.size() != rows) throw Error("state, z0 and dz have different numbers of rows");
  std::vector<State> result(rows);
  std::vector<double> times, grouped;
  std::size_t lost = 0;
  for (int repeat = 0; repeat < repeats; ++repeat) {
    lost = 0;
    const double start = seconds();
    double last = start;
    for (std::size_t row = 0; row < rows; ++row) {
      State& state = result[row];
      std::copy_n(states.data() + 5 * row, 5, state.begin());
      const bool inside = method == "rk4" ? propagate_rk4(grid, state, z0[row], dz[row], value)
                                          : propagate_adaptive(grid, state, z0[row], dz[row], value);
      if (!inside) {
        state.fill(std::numeric_limits<double>::quiet_NaN());
        ++lost;
      }
      if ((row + 1) % group == 0) {
        const double now = seconds();
        grouped.push_back(1e6 * (now - last) / group);
        last = now;
      }
    }
    times.push_back(seconds() - start);
  }
  std::sort(times.begin(), times.end());
  std::ofstream file(folder + "/final_state.f64", std::ios::binary);
  file.write(reinterpret_cast<const char*>(result.data()), static_cast<std::streamsize>(rows * sizeof(State)));
  if (!file.flush()) throw Error("cannot write " + folder + "/final_state.f64");
  std::printf("{\"method\": \"%s\", \"value_mm\": %g, \"nodes\": [%zu, %zu, %zu], \"tracks\": %zu, \"lost\": %zu, \"us_per_track\": %.4f, \"p50_us\": %.4f, \"p95_us\": %.4f, \"memory_mb\": %.1f}\n",
              method.c_str(), value, grid.nodes()[0], grid.nodes()[1], grid.nodes()[2], rows, lost,
              1e6 * times[times.size() / 2] / static_cast<double>(std::max<std::size_t>(rows, 1)), quantile(grouped, 0.5),
              quantile(grouped, 0.95), memory_mb);
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
