// The native methods of org.pytorch.executorch.extension.llm.LlmModule that the app calls, as Android's library has
// them, over the stock TextLLMRunner, which the wheel carries inside its Python extension.
#include <executorch/extension/module/module.h>
#include <jni.h>

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "hybrid_data.h"
#include "jni_support.h"

// The wheel exports these and ships no header for them: their form is that of ExecuTorch 1.5, and CMakeLists.txt
// refuses any other version.
namespace tokenizers {
class Tokenizer {
 public:
  virtual ~Tokenizer();
};
}  // namespace tokenizers

namespace executorch::extension::llm {

struct Stats;
class MultimodalInput;

struct GenerationConfig {
  bool echo = true;
  std::string grammar;
  std::string grammar_type;
  bool ignore_eos = false;
  int32_t max_new_tokens = -1;
  bool warming = false;
  int32_t seq_len = -1;
  float temperature = 0.8f;
  int32_t num_bos = 0;
  int32_t num_eos = 0;
};

class IRunner {
 public:
  virtual ~IRunner();
  virtual bool is_loaded() const = 0;
  virtual runtime::Error load() = 0;
  virtual runtime::Error generate(
      const std::string& prompt, const GenerationConfig& config, std::function<void(const std::string&)> on_piece,
      std::function<void(const Stats&)> on_stats) = 0;
  virtual runtime::Result<uint64_t> prefill(const std::vector<MultimodalInput>& inputs, int32_t bos, int32_t eos) = 0;
  virtual void stop() = 0;
  virtual void reset() = 0;
};

class TextLLMRunner : public IRunner {
 public:
  ~TextLLMRunner() override;
};

std::unique_ptr<tokenizers::Tokenizer> load_tokenizer(
    const std::string& path, std::unique_ptr<std::vector<std::string>> special_tokens, std::optional<std::string> pattern,
    size_t bos_token_index, size_t eos_token_index);

std::unique_ptr<TextLLMRunner> create_text_llm_runner(
    const std::string& model_path, std::unique_ptr<tokenizers::Tokenizer> tokenizer, std::vector<std::string> data_files,
    float temperature, std::unique_ptr<runtime::EventTracer> event_tracer, const std::string& method_name,
    Module::LoadMode load_mode);

}  // namespace executorch::extension::llm

namespace {

namespace llm = executorch::extension::llm;
using executorch::extension::Module;
using executorch::runtime::Error;

constexpr jint kTextModel = 1;
constexpr float kTemperatureOfEachCall = -1.0f;

struct LlmModule : g3n::Native {
  std::unique_ptr<llm::IRunner> runner;
  int bos = 0;
  // Android's library puts bos only before what begins a context.
  bool begins = true;
};

LlmModule& module_of(JNIEnv* env, jobject self) { return g3n::hybrid::of<LlmModule>(env, self); }

std::vector<std::string> strings_of(JNIEnv* env, jobject list) {
  std::vector<std::string> out;
  if (list == nullptr) return out;
  jclass list_class = env->FindClass("java/util/List");
  const jmethodID get = env->GetMethodID(list_class, "get", "(I)Ljava/lang/Object;");
  const jint size = env->CallIntMethod(list, env->GetMethodID(list_class, "size", "()I"));
  for (jint i = 0; i < size; i++) {
    out.push_back(g3n::utf8(env, static_cast<jstring>(env->CallObjectMethod(list, get, i))));
  }
  return out;
}

// Whether `text` ends with a whole character; a token may be one byte of several.
bool is_whole(const std::string& text) {
  for (size_t back = 1; back <= text.size() && back <= 4; back++) {
    const auto byte = static_cast<unsigned char>(text[text.size() - back]);
    if (byte < 0x80) return back == 1;
    if (byte >= 0xC0) return back == (byte >= 0xF0 ? 4u : byte >= 0xE0 ? 3u : 2u);
  }
  return text.empty();
}

// An LlmCallback; Android's library waits with a piece until its last character is whole.
class Callback {
 public:
  Callback(JNIEnv* env, jobject callback) : env_(env), callback_(callback), class_(env->GetObjectClass(callback)) {}

  // False after the callback has raised a Java exception.
  bool on_piece(const std::string& piece) {
    waiting_ += piece;
    if (env_->ExceptionCheck()) return false;
    if (is_whole(waiting_)) {
      jstring text = g3n::java_string(env_, waiting_);
      waiting_.clear();
      env_->CallVoidMethod(callback_, env_->GetMethodID(class_, "onResult", "(Ljava/lang/String;)V"), text);
      env_->DeleteLocalRef(text);
    }
    return !env_->ExceptionCheck();
  }

  void on_error(Error error, const std::string& message) {
    if (env_->ExceptionCheck()) return;
    const jmethodID method = env_->GetMethodID(class_, "onError", "(ILjava/lang/String;)V");
    env_->CallVoidMethod(callback_, method, static_cast<jint>(error), g3n::java_string(env_, message));
  }

 private:
  JNIEnv* env_;
  jobject callback_;
  jclass class_;
  std::string waiting_;
};

}  // namespace

#define G3N_JNI(Result, name) JNIEXPORT Result JNICALL Java_org_pytorch_executorch_extension_llm_LlmModule_##name

extern "C" {

G3N_JNI(jobject, initHybrid)(
    JNIEnv* env, jclass, jint type, jstring model, jstring tokenizer, jfloat, jobject data_files, jint bos, jint,
    jint load_mode) {
  return g3n::guarded<jobject>(env, nullptr, [&] {
    auto made = std::make_unique<LlmModule>();
    made->bos = bos;
    if (type == kTextModel) {
      made->runner = llm::create_text_llm_runner(
          g3n::utf8(env, model), llm::load_tokenizer(g3n::utf8(env, tokenizer), nullptr, std::nullopt, 0, 1),
          strings_of(env, data_files), kTemperatureOfEachCall, nullptr, "forward",
          static_cast<Module::LoadMode>(load_mode));
    }
    return g3n::hybrid::make(env, std::move(made));
  });
}

G3N_JNI(jint, loadNative)(JNIEnv* env, jobject self) {
  return g3n::guarded<jint>(env, static_cast<jint>(Error::Internal), [&] {
    auto& module = module_of(env, self);
    return static_cast<jint>(module.runner ? module.runner->load() : Error::InvalidState);
  });
}

G3N_JNI(jint, generateNative)(
    JNIEnv* env, jobject self, jstring prompt, jint seq_len, jobject callback, jboolean echo, jfloat temperature, jint,
    jint eos) {
  return g3n::guarded<jint>(env, static_cast<jint>(Error::Internal), [&] {
    auto& module = module_of(env, self);
    Callback listener(env, callback);
    if (!module.runner) {
      listener.on_error(Error::InvalidState, "generate() failed: runner not initialized");
      return static_cast<jint>(Error::InvalidState);
    }
    llm::GenerationConfig config;
    config.echo = echo;
    config.warming = true;  // keeps the runner from printing the text
    config.seq_len = seq_len;
    config.temperature = temperature;
    config.num_bos = module.begins ? module.bos : 0;
    config.num_eos = eos;
    const Error error = module.runner->generate(
        g3n::utf8(env, prompt), config,
        [&](const std::string& piece) {
          if (!listener.on_piece(piece)) module.runner->stop();
        },
        {});
    if (error == Error::Ok) {
      module.begins = false;
    } else {
      listener.on_error(error, "generate() failed with error code " + std::to_string(static_cast<int>(error)));
    }
    return static_cast<jint>(error);
  });
}

G3N_JNI(void, stopNative)(JNIEnv* env, jobject self) {
  if (auto& module = module_of(env, self); module.runner) module.runner->stop();
}

G3N_JNI(void, resetContextNative)(JNIEnv* env, jobject self) {
  auto& module = module_of(env, self);
  if (module.runner) module.runner->reset();
  module.begins = true;
}

}  // extern "C"
