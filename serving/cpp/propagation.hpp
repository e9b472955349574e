// The classical method in C++: a track through a field map, by Runge-Kutta with fixed or adaptive steps. It is the
// baseline that networks are compared with.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <limits>
#include <string>
#include <vector>

#include "track_model.hpp"

namespace trackkeras {

/// Bending constant [MeV/(T mm)]: the speed of light [m/s] times 1e-9.
constexpr double kappa = 299'792'458 * 1e-9;

/// x [mm], y [mm], tx, ty, q/p [1/MeV] at a plane z.
using State = std::array<double, 5>;

/// Trilinear interpolation on a regular grid. Nodes are float32, four numbers each; arithmetic is double.
class FieldGrid {
 public:
  /// Read lines of `x y z Bx By Bz` [mm, T] in any order, or the same numbers as raw float64 (`.f64`).
  explicit FieldGrid(const std::string& path) {
    const std::vector<double> table = path.size() > 4 && path.substr(path.size() - 4) == ".f64" ? read_raw(path) : read_text(path);
    const std::size_t nodes = table.size() / 6;
    if (nodes == 0 || nodes * 6 != table.size()) throw Error(path + " does not hold six numbers per node");
    for (int axis = 0; axis < 3; ++axis) find_axis(path, table, axis);
    const std::size_t expected = count_[0] * count_[1] * count_[2];
    if (expected != nodes)
      throw Error(path + " is no complete grid: " + std::to_string(nodes) + " nodes instead of " + std::to_string(expected));
    values_.assign(nodes * 4, std::numeric_limits<float>::quiet_NaN());
    for (std::size_t node = 0; node < nodes; ++node) {
      std::size_t place = 0;
      for (int axis = 0; axis < 3; ++axis) {
        const double cell = (table[node * 6 + axis] - first_[axis]) / step_[axis];
        const double nearest = std::round(cell);
        if (std::abs(cell - nearest) > 1e-3) throw Error(path + ": the nodes are not equally spaced");
        place = place * count_[axis] + static_cast<std::size_t>(nearest);
      }
      for (int component = 0; component < 3; ++component)
        values_[place * 4 + component] = static_cast<float>(table[node * 6 + 3 + component]);
      values_[place * 4 + 3] = 0.0f;
    }
    for (float value : values_) {
      if (!std::isfinite(value)) throw Error(path + ": a node is missing or not finite");
    }
  }

  /// Fill Bx, By, Bz [T]; false outside the grid.
  bool field(double x, double y, double z, double* b) const {
    const double place[] = {(x - first_[0]) * inverse_[0], (y - first_[1]) * inverse_[1], (z - first_[2]) * inverse_[2]};
    std::size_t cell[3];
    double part[3];
    for (int axis = 0; axis < 3; ++axis) {
      if (!(place[axis] >= 0.0 && place[axis] <= static_cast<double>(count_[axis] - 1))) return false;
      cell[axis] = std::min(static_cast<std::size_t>(place[axis]), count_[axis] - 2);
      part[axis] = place[axis] - static_cast<double>(cell[axis]);
    }
    const std::size_t row = count_[2] * 4, plane = count_[1] * row;
    const float* corner = values_.data() + cell[0] * plane + cell[1] * row + cell[2] * 4;
    for (int component = 0; component < 3; ++component) {
      const float* c = corner + component;
      const double c00 = c[0] + part[2] * (static_cast<double>(c[4]) - c[0]);
      const double c01 = c[row] + part[2] * (static_cast<double>(c[row + 4]) - c[row]);
      const double c10 = c[plane] + part[2] * (static_cast<double>(c[plane + 4]) - c[plane]);
      const double c11 = c[plane + row] + part[2] * (static_cast<double>(c[plane + row + 4]) - c[plane + row]);
      const double c0 = c00 + part[1] * (c01 - c00), c1 = c10 + part[1] * (c11 - c10);
      b[component] = c0 + part[0] * (c1 - c0);
    }
    return true;
  }

  const std::array<std::size_t, 3>& nodes() const { return count_; }

 private:
  static std::vector<double> read_raw(const std::string& path) {
    std::ifstream file(path, std::ios::binary | std::ios::ate);
    if (!file) throw Error("cannot read " + path);
    std::vector<double> table(static_cast<std::size_t>(file.tellg()) / sizeof(double));
    file.seekg(0).read(reinterpret_cast<char*>(table.data()), static_cast<std::streamsize>(table.size() * sizeof(double)));
    return table;
  }

  static std::vector<double> read_text(const std::string& path) {
    std::ifstream file(path);
    if (!file) throw Error("cannot read " + path);
    std::vector<double> table;
    std::size_t number = 0;
    for (std::string line; std::getline(file, line);) {
      ++number;
      line = line.substr(0, line.find('#'));
      const char* place = line.c_str();
      std::size_t found = 0;
      for (char* end = nullptr;; place = end, ++found) {
        const double value = std::strtod(place, &end);
        if (end == place) break;
        table.push_back(value);
      }
      const bool rest = line.find_first_not_of(" \t\r", static_cast<std::size_t>(place - line.c_str())) != std::string::npos;
      if (rest || (found != 0 && found != 6)) throw Error(path + ", line " + std::to_string(number) + ": needs six numbers");
    }
    return table;
  }

  void find_axis(const std::string& path, const std::vector<double>& table, int axis) {
    std::vector<double> all;
    for (std::size_t i = static_cast<std::size_t>(axis); i < table.size(); i += 6) all.push_back(table[i]);
    std::sort(all.begin(), all.end());
    all.erase(std::unique(all.begin(), all.end(), [](double a, double b) { return b - a < 1e-3; }), all.end());
    if (all.size() < 2) throw Error(path + ": an axis has a single coordinate");
    count_[axis] = all.size();
    first_[axis] = all.front();
    step_[axis] = (all.back() - all.front()) / static_cast<double>(all.size() - 1);
    inverse_[axis] = 1.0 / step_[axis];
  }

  std::array<std::size_t, 3> count_{};
  std::array<double, 3> first_{}, step_{}, inverse_{};
  std::vector<float> values_;
};

/// d state / dz of x, y, tx, ty; false outside the field.
inline bool derivative(const FieldGrid& grid, const double* state, double qop, double z, double* slope) {
  double b[3];
  if (!grid.field(state[0], state[1], z, b)) return false;
  const double tx = state[2], ty = state[3];
  const double factor = kappa * qop * std::sqrt(1.0 + tx * tx + ty * ty);
  slope[0] = tx;
  slope[1] = ty;
  slope[2] = factor * (tx * ty * b[0] - (1.0 + tx * tx) * b[1] + ty * b[2]);
  slope[3] = factor * ((1.0 + ty * ty) * b[0] - tx * ty * b[1] - tx * b[2]);
  return true;
}

/// Classical Runge-Kutta of fourth order with equal steps no longer than `longest` [mm]; false outside the field.
inline bool propagate_rk4(const FieldGrid& grid, State& state, double z0, double dz, double longest) {
  const int steps = std::max(1, static_cast<int>(std::ceil(std::abs(dz) / longest - 1e-9)));
  const double h = dz / steps;
  for (int step = 0; step < steps; ++step) {
    const double z = z0 + step * h;
    double k1[4], k2[4], k3[4], k4[4], at[4];
    if (!derivative(grid, state.data(), state[4], z, k1)) return false;
    for (int i = 0; i < 4; ++i) at[i] = state[i] + 0.5 * h * k1[i];
    if (!derivative(grid, at, state[4], z + 0.5 * h, k2)) return false;
    for (int i = 0; i < 4; ++i) at[i] = state[i] + 0.5 * h * k2[i];
    if (!derivative(grid, at, state[4], z + 0.5 * h, k3)) return false;
    for (int i = 0; i < 4; ++i) at[i] = state[i] + h * k3[i];
    if (!derivative(grid, at, state[4], step + 1 == steps ? z0 + dz : z + h, k4)) return false;
    for (int i = 0; i < 4; ++i) state[i] += h / 6.0 * (k1[i] + 2.0 * (k2[i] + k3[i]) + k4[i]);
  }
  return true;
}

/// Cash and Karp's embedded pair of orders 4 and 5 (ACM Trans. Math. Softw. 16, 1990, 201): steps are chosen such
/// that the two differ by at most `tolerance` [mm] in position, and in slope by as much over 1 m.
inline bool propagate_adaptive(const FieldGrid& grid, State& state, double z0, double dz, double tolerance) {
  static constexpr double a[6][5] = {{},
                                     {1.0 / 5},
                                     {3.0 / 40, 9.0 / 40},
                                     {3.0 / 10, -9.0 / 10, 6.0 / 5},
                                     {-11.0 / 54, 5.0 / 2, -70.0 / 27, 35.0 / 27},
                                     {1631.0 / 55296, 175.0 / 512, 575.0 / 13824, 44275.0 / 110592, 253.0 / 4096}};
  static constexpr double c[6] = {0.0, 1.0 / 5, 3.0 / 10, 3.0 / 5, 1.0, 7.0 / 8};
  static constexpr double fifth[6] = {37.0 / 378, 0.0, 250.0 / 621, 125.0 / 594, 0.0, 512.0 / 1771};
  static constexpr double fourth[6] = {2825.0 / 27648, 0.0, 18575.0 / 48384, 13525.0 / 55296, 277.0 / 14336, 1.0 / 4};
  constexpr double shortest = 0.1, first = 500.0;  // [mm]
  double done = 0.0, h = std::copysign(std::min(first, std::abs(dz)), dz);
  while (done != dz) {
    if (std::abs(dz - done) <= std::abs(h)) h = dz - done;
    double k[6][4];
    for (int stage = 0; stage < 6; ++stage) {
      double at[4];
      for (int i = 0; i < 4; ++i) {
        at[i] = state[i];
        for (int before = 0; before < stage; ++before) at[i] += h * a[stage][before] * k[before][i];
      }
      if (!derivative(grid, at, state[4], z0 + done + c[stage] * h, k[stage])) return false;
    }
    double error = 0.0;
    State next = state;
    for (int i = 0; i < 4; ++i) {
      double difference = 0.0;
      for (int stage = 0; stage < 6; ++stage) {
        next[i] += h * fifth[stage] * k[stage][i];
        difference += h * (fifth[stage] - fourth[stage]) * k[stage][i];
      }
      error = std::max(error, std::abs(difference) * (i < 2 ? 1.0 : 1000.0) / tolerance);
    }
    if (!(error <= std::numeric_limits<double>::max())) return false;
    if (error <= 1.0 || std::abs(h) <= shortest) {
      state = next;
      done = h == dz - done ? dz : done + h;
    }
    // the usual controller: safety factor 0.9, growth within a fifth and fivefold
    h *= std::clamp(0.9 * std::pow(std::max(error, 1e-10), -0.2), 0.2, 5.0);
    if (std::abs(h) < shortest) h = std::copysign(shortest, dz);
  }
  return true;
}

}  // namespace trackkeras
