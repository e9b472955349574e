// Time engines against each other in one process: their calls alternate, so that a busy machine slows all alike.
//
//   benchmark FOLDER BATCH,BATCH,... KIND=MODEL[@LIBRARY] ...
//
// reads FOLDER/INPUT.f32 (.i32 for int32), and for every batch size makes 10 rounds that do not count and 100 that do; in a round
// each engine runs one batch (64 single rows for a batch of 1), every round on other rows. Prints one line of
// JSON per engine and batch. One thread.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <iostream>
#include <sstream>

#include "open_model.hpp"

using namespace trackkeras;

constexpr int warm_ups = 10, rounds = 100, single_rows = 64;

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

static double quantile(std::vector<double> values, double share) {
  std::sort(values.begin(), values.end());
  const double place = share * static_cast<double>(values.size() - 1);
  const std::size_t low = static_cast<std::size_t>(place);
  const std::size_t high = std::min(low + 1, values.size() - 1);
  return values[low] + (place - static_cast<double>(low)) * (values[high] - values[low]);
}

struct Engine {
  std::string kind;
  double memory_mb;
  std::unique_ptr<TrackModel> model;
  std::vector<Numbers> columns, results;
  std::vector<double> times;
  std::size_t rows = 0;

  void call(std::size_t start, std::size_t batch) {
    in.clear();
    out.clear();
    for (std::size_t i = 0; i < columns.size(); ++i) in.push_back(columns[i].data() + start * model->inputs()[i].columns);
    for (auto& result : results) out.push_back(result.data());
    model->run(in, batch, out);
  }

 private:
  std::vector<const void*> in;
  std::vector<void*> out;
};

#ifdef GENERATED_HEADER
/// Single rows by the entry points for one row: as fast as they come, and each waiting for the one before, as in
/// a Kalman filter that needs a state before it can go on.
static void time_single_rows(const std::vector<Numbers>& columns, std::size_t rows) {
  std::vector<std::vector<float>> numbers;
  std::vector<const float*> in;
  for (const auto& column : columns) {
    numbers.emplace_back(column.size());
    std::memcpy(numbers.back().data(), column.data(), column.size() * number_bytes);
    in.push_back(numbers.back().data());
  }
  constexpr int width = GENERATED::detail::columns, results = GENERATED::detail::results;
  std::vector<float> packed(rows * width);
  for (std::size_t row = 0; row < rows; ++row) GENERATED::detail::gather(in.data(), row, packed.data() + row * width, 1);
  float result[results], jacobian[results * GENERATED::detail::tangents];
  for (int kind = 0; kind < 3; ++kind) {
    std::vector<double> times;
    std::size_t next = 0;
    for (int round = 0; round < warm_ups + rounds; ++round) {
      const double start = seconds();
      for (int i = 0; i < single_rows; ++i, next = (next + 1) % rows) {
        float* row = packed.data() + next * width;
        if (kind == 1) row[0] += 1e-9f * result[0];
        if (kind == 2) GENERATED::predict_one_with_jacobian(row, result, jacobian);
        else GENERATED::predict_one(row, result);
      }
      if (round >= warm_ups) times.push_back(1e6 * (seconds() - start) / single_rows);
    }
    const char* names[] = {"generated, one row", "generated, one row after the other", "generated, one row with Jacobian"};
    std::printf("{\"engine\": \"%s\", \"batch\": 1, \"p50_us\": %.4f, \"p95_us\": %.4f, \"memory_mb\": 0}\n", names[kind],
                quantile(times, 0.5), quantile(times, 0.95));
  }
}
#endif

static int benchmark(int count, char** words) {
  if (count < 4) throw Error("usage: benchmark FOLDER BATCH,BATCH,... KIND=MODEL[@LIBRARY] ...");
  std::vector<std::size_t> batches;
  std::stringstream list(words[2]);
  for (std::string part; std::getline(list, part, ',');) batches.push_back(std::stoul(part));
  const std::size_t largest = *std::max_element(batches.begin(), batches.end());
  std::vector<Engine> engines(static_cast<std::size_t>(count - 3));
  for (int i = 3; i < count; ++i) {
    const std::string text = words[i];
    const auto equals = text.find('='), at = text.rfind('@');
    if (equals == std::string::npos) throw Error("an engine is KIND=MODEL[@LIBRARY]; received " + text);
    EngineOptions options;
    if (at != std::string::npos) options.library = text.substr(at + 1);
    Engine& engine = engines[static_cast<std::size_t>(i - 3)];
    const double before = resident_mb();
    engine.kind = text.substr(0, equals);
    engine.model = open_model(engine.kind, text.substr(equals + 1, at == std::string::npos ? at : at - equals - 1), options);
    engine.columns = read_inputs(*engine.model, words[1], engine.rows);
    if (engine.rows < largest) throw Error("there are fewer rows than the largest batch");
    for (const auto& tensor : engine.model->outputs()) engine.results.emplace_back(largest * tensor.columns);
    engine.call(0, 1);
    engine.memory_mb = resident_mb() - before;
  }
  for (const std::size_t batch : batches) {
    const int calls = batch == 1 ? single_rows : 1;
    for (Engine& engine : engines) engine.times.clear();
    for (int round = 0; round < warm_ups + rounds; ++round) {
      for (Engine& engine : engines) {
        const std::size_t places = engine.rows - batch * static_cast<std::size_t>(calls) + 1;
        const std::size_t first = static_cast<std::size_t>(round) * batch * static_cast<std::size_t>(calls) % places;
        const double start = seconds();
        for (int i = 0; i < calls; ++i) engine.call(first + static_cast<std::size_t>(i), batch);
        if (round >= warm_ups) engine.times.push_back(1e6 * (seconds() - start) / calls);
      }
    }
    for (const Engine& engine : engines)
      std::printf("{\"engine\": \"%s\", \"batch\": %zu, \"p50_us\": %.4f, \"p95_us\": %.4f, \"memory_mb\": %.1f}\n",
                  engine.kind.c_str(), batch, quantile(engine.times, 0.5), quantile(engine.times, 0.95),
                  engine.memory_mb);
  }
#ifdef GENERATED_HEADER
  for (const Engine& engine : engines) {
    if (engine.kind == "generated") time_single_rows(engine.columns, engine.rows);
  }
#endif
  return 0;
}

int main(int count, char** words) {
  try {
    return benchmark(count, words);
  } catch (const std::exception& error) {
    std::cerr << "error: " << error.what() << "\n";
    return 2;
  }
}
