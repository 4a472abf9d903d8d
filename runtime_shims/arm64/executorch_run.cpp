// Runs a method of a .pte token by token and writes its logits: what Python's ExecuTorchModel does, without torch.
//
//   g3n_executorch_run MODEL TABLES METHOD ROWS SCRIPT LOGITS TOKENS
//
// ROWS holds the input rows [vocabulary, width] float32 of a method that takes embeddings, or is "-" for one that takes
// token ids. Each line of SCRIPT is "run POSITION ID..." (logits [vocabulary] float32 after the last id are appended to
// LOGITS) or "greedy COUNT" (goes on from the last logits; the tokens are written to TOKENS, one a line).
#include <executorch/extension/module/module.h>
#include <executorch/extension/tensor/tensor.h>

#include <algorithm>
#include <cstdint>
#include <fstream>
#include <iostream>
#include <iterator>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

using executorch::aten::ScalarType;
using executorch::extension::from_blob;
using executorch::extension::Module;

class Runner {
 public:
  Runner(const std::string& model, const std::string& tables, std::string method, const std::string& rows)
      : module_(model, tables, Module::LoadMode::Mmap), method_(std::move(method)) {
    check(module_.load_method(method_), "loading " + method_);
    const auto vocabulary = module_.execute("get_vocab_size");
    check(vocabulary.error(), "get_vocab_size");
    vocabulary_ = vocabulary->at(0).toInt();
    if (rows != "-") read_rows(rows);
  }

  const std::vector<float>& run(int64_t position, std::vector<int64_t> ids) {
    const auto count = static_cast<int>(ids.size());
    std::vector<int64_t> positions(ids.size());
    for (int i = 0; i < count; ++i) positions[i] = position + i;
    auto position_tensor = from_blob(positions.data(), {count}, ScalarType::Long);
    std::vector<float> inputs;
    auto input = rows_.empty() ? from_blob(ids.data(), {1, count}, ScalarType::Long)
                               : from_blob(gather(ids, inputs), {1, count, width_});
    const auto outputs = module_.execute(method_, {input, position_tensor});
    check(outputs.error(), method_);
    const auto logits = outputs->at(0).toTensor();
    const float* end = logits.const_data_ptr<float>() + logits.numel();
    logits_.assign(end - vocabulary_, end);
    next_ = position + count;
    return logits_;
  }

  // The most likely token, which is then run.
  int64_t step() {
    const int64_t token = std::max_element(logits_.begin(), logits_.end()) - logits_.begin();
    run(next_, {token});
    return token;
  }

 private:
  static void check(executorch::runtime::Error error, const std::string& what) {
    if (error == executorch::runtime::Error::Ok) return;
    throw std::runtime_error(what + ": ExecuTorch error " + std::to_string(static_cast<int>(error)));
  }

  void read_rows(const std::string& path) {
    std::ifstream file(path, std::ios::binary | std::ios::ate);
    const auto bytes = static_cast<int64_t>(file.tellg());
    if (!file || bytes <= 0 || bytes % (vocabulary_ * 4) != 0) throw std::runtime_error(path + " holds no rows");
    width_ = static_cast<int>(bytes / 4 / vocabulary_);
    rows_.resize(bytes / 4);
    file.seekg(0);
    file.read(reinterpret_cast<char*>(rows_.data()), bytes);
  }

  float* gather(const std::vector<int64_t>& ids, std::vector<float>& out) const {
    for (const int64_t id : ids) {
      if (id < 0 || id >= vocabulary_) throw std::runtime_error("token " + std::to_string(id) + " is not in the vocabulary");
      out.insert(out.end(), rows_.begin() + id * width_, rows_.begin() + (id + 1) * width_);
    }
    return out.data();
  }

  Module module_;
  std::string method_;
  int64_t vocabulary_ = 0;
  int width_ = 0;
  std::vector<float> rows_, logits_;
  int64_t next_ = 0;
};

int run_script(char** arguments) {
  Runner runner(arguments[1], arguments[2], arguments[3], arguments[4]);
  std::ifstream script(arguments[5]);
  std::ofstream logits(arguments[6], std::ios::binary), tokens(arguments[7]);
  if (!script) throw std::runtime_error(std::string("no script ") + arguments[5]);
  for (std::string line; std::getline(script, line);) {
    std::istringstream words(line);
    std::string verb;
    int64_t number = 0;
    words >> verb >> number;
    if (verb == "run") {
      const std::vector<int64_t> ids(std::istream_iterator<int64_t>{words}, {});
      const auto& out = runner.run(number, ids);
      logits.write(reinterpret_cast<const char*>(out.data()), static_cast<std::streamsize>(out.size() * 4));
    } else if (verb == "greedy") {
      for (int64_t i = 0; i < number; ++i) tokens << runner.step() << "\n";
    } else {
      throw std::runtime_error("unknown line: " + line);
    }
  }
  return logits.flush() && tokens.flush() ? 0 : 1;
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 8) {
    std::cerr << "usage: g3n_executorch_run MODEL TABLES METHOD ROWS SCRIPT LOGITS TOKENS\n";
    return 2;
  }
  try {
    return run_script(arguments);
  } catch (const std::exception& error) {
    std::cerr << error.what() << "\n";
    return 1;
  }
}
