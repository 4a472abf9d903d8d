// Loads the method `forward` of a bundle's program and answers token by token, with packed weights on the heap or in a
// mapped file, and prints what it took: load seconds, tokens a second, anonymous and file memory, and the tokens.
//
//   packed_weights MODEL TABLES CACHE COUNT ID...
//
// CACHE is the file for packed weights, made by the first run and mapped by the next; "heap" for a cache without a file,
// as ExecuTorch's builds for Android and Apple have it; or "-" for none.
#include <executorch/extension/module/module.h>
#include <executorch/extension/tensor/tensor.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iostream>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

using executorch::aten::ScalarType;
using executorch::extension::from_blob;
using executorch::extension::Module;
using executorch::runtime::BackendOption;
using executorch::runtime::Error;
using executorch::runtime::LoadBackendOptionsMap;
using executorch::runtime::Span;

void check(Error error, const std::string& what) {
  if (error != Error::Ok) throw std::runtime_error(what + ": ExecuTorch error " + std::to_string(static_cast<int>(error)));
}

double seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// A line of /proc/self/status in MB.
double memory(const std::string& name) {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);)
    if (line.rfind(name + ":", 0) == 0) return std::strtod(line.c_str() + name.size() + 1, nullptr) / 1024;
  return 0;
}

BackendOption option(const char* key, executorch::runtime::OptionValue value) {
  BackendOption made;
  std::strncpy(made.key, key, sizeof(made.key) - 1);
  made.value = value;
  return made;
}

int64_t step(Module& module, std::vector<int64_t> ids, int64_t position) {
  std::vector<int64_t> positions(ids.size());
  for (size_t i = 0; i < ids.size(); ++i) positions[i] = position + static_cast<int64_t>(i);
  const int count = static_cast<int>(ids.size());
  auto tokens = from_blob(ids.data(), {1, count}, ScalarType::Long);
  auto at = from_blob(positions.data(), {count}, ScalarType::Long);
  const auto outputs = module.execute("forward", {tokens, at});
  check(outputs.error(), "forward");
  const auto logits = outputs->at(0).toTensor();
  const float* begin = logits.const_data_ptr<float>();
  return std::max_element(begin, begin + logits.numel()) - begin;
}

void run(int argc, char** argv) {
  if (argc < 6) throw std::runtime_error("packed_weights MODEL TABLES CACHE COUNT ID...");
  const std::string cache = argv[3];
  const int count = std::atoi(argv[4]);
  std::vector<int64_t> ids;
  for (int i = 5; i < argc; ++i) ids.push_back(std::atoll(argv[i]));

  const double start = seconds();
  Module module(argv[1], argv[2], Module::LoadMode::Mmap);
  std::vector<BackendOption> options{option("weight_cache_enabled", cache != "-")};
  if (cache != "-" && cache != "heap") {
    std::array<char, executorch::runtime::kMaxOptionValueLength> path{};
    if (cache.size() >= path.size()) throw std::runtime_error("the path of the cache is too long");
    std::copy(cache.begin(), cache.end(), path.begin());
    options.push_back(option("packed_cache_path", path));
  }
  LoadBackendOptionsMap map;
  check(map.set_options("XnnpackBackend", Span<BackendOption>(options.data(), options.size())), "options");
  check(module.load(map), "load");
  check(module.load_method("forward"), "load_method");
  const double loaded = seconds();

  std::string said;
  int64_t token = step(module, ids, 0);
  const double first = seconds();
  for (int i = 0; i < count; ++i) {
    said += " " + std::to_string(token);
    token = step(module, {token}, static_cast<int64_t>(ids.size()) + i);
  }
  const double end = seconds();
  std::cout << "load " << loaded - start << " s, " << count / (end - first) << " tok/s, anonymous " << memory("RssAnon")
            << " MB, of files " << memory("RssFile") << " MB, peak " << memory("VmHWM") << " MB, tokens" << said << std::endl;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    run(argc, argv);
  } catch (const std::exception& error) {
    std::cerr << error.what() << std::endl;
    return 1;
  }
}
