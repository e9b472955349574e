// Run a model on rows from files, batch by batch, and write what it gives: the program behind the parity checks.
//
//   apply KIND MODEL FOLDER [--library FILE] [--signature NAME] [--batch ROWS]
//
// reads FOLDER/INPUT.f32 and writes FOLDER/OUTPUT.f32 (raw float32; .i32 for int32); `--batch 1` of the kind
// `generated` uses the entry points for one row. An ONNX file has one signature, whatever NAME says. Prints names
// and columns of inputs and outputs as JSON.
#include <algorithm>
#include <cstdio>
#include <iostream>

#include "open_model.hpp"

using namespace trackkeras;

static void print_side(const char* name, const std::vector<TensorInfo>& tensors) {
  std::printf("\"%s\": {", name);
  for (std::size_t i = 0; i < tensors.size(); ++i)
    std::printf("%s\"%s\": %zu", i ? ", " : "", tensors[i].name.c_str(), tensors[i].columns);
  std::printf("}");
}

static int apply(int count, char** words) {
  if (count < 4) throw Error("usage: apply KIND MODEL FOLDER [--library FILE] [--signature NAME] [--batch ROWS]");
  EngineOptions options;
  std::size_t batch = 4096;
  for (int i = 4; i + 1 < count; i += 2) {
    const std::string option = words[i];
    if (option == "--library") options.library = words[i + 1];
    else if (option == "--signature") options.signature = words[i + 1];
    else if (option == "--batch") batch = std::stoul(words[i + 1]);
    else throw Error("unknown option " + option);
  }
  const std::string kind = words[1], folder = words[3];
  const auto model = open_model(kind, words[2], options);
  std::size_t rows = 0;
  const auto columns = read_inputs(*model, folder, rows);
  std::vector<Numbers> results;
  for (const auto& tensor : model->outputs()) results.emplace_back(rows * tensor.columns);
  for (std::size_t start = 0; start < rows; start += batch) {
    std::vector<const void*> in;
    std::vector<void*> out;
    for (std::size_t i = 0; i < columns.size(); ++i) in.push_back(columns[i].data() + start * model->inputs()[i].columns);
    for (std::size_t i = 0; i < results.size(); ++i) out.push_back(results[i].data() + start * model->outputs()[i].columns);
    model->run(in, std::min(batch, rows - start), out);
  }
  for (std::size_t i = 0; i < results.size(); ++i)
    write_numbers(file_of(model->outputs()[i], folder), results[i]);
  std::printf("{");
  print_side("inputs", model->inputs());
  std::printf(", ");
  print_side("outputs", model->outputs());
  std::printf("}\n");
  return 0;
}

int main(int count, char** words) {
  try {
    return apply(count, words);
  } catch (const std::exception& error) {
    std::cerr << "error: " << error.what() << "\n";
    return 2;
  }
}
