// org.g3n.host.NativeLiteRtLm over LiteRT-LM's C library, as its Python wheel ships it.
#include <dlfcn.h>
#include <jni.h>

#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <string>

#include "jni_support.h"

namespace {

using Handle = void*;
using StreamCallback = void (*)(void* data, Handle chunk);

// The functions of the C library that are called, by the names and types it exports.
struct Library {
  explicit Library(const std::string& path) : handle(dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL)) {
    if (handle == nullptr) throw std::runtime_error(std::string("the library cannot be opened: ") + dlerror());
    bind(set_min_log_level, "set_min_log_level");
    bind(settings_create, "engine_settings_create");
    bind(settings_delete, "engine_settings_delete");
    bind(settings_set_max_num_tokens, "engine_settings_set_max_num_tokens");
    bind(settings_set_num_threads, "engine_settings_set_num_threads");
    bind(settings_set_cache_dir, "engine_settings_set_cache_dir");
    bind(engine_create, "engine_create");
    bind(engine_delete, "engine_delete");
    bind(sampler_create, "sampler_params_create");
    bind(sampler_delete, "sampler_params_delete");
    bind(sampler_set_top_k, "sampler_params_set_top_k");
    bind(sampler_set_top_p, "sampler_params_set_top_p");
    bind(sampler_set_temperature, "sampler_params_set_temperature");
    bind(sampler_set_seed, "sampler_params_set_seed");
    bind(session_create, "session_config_create");
    bind(session_delete, "session_config_delete");
    bind(session_set_sampler, "session_config_set_sampler_params");
    bind(session_set_max_output_tokens, "session_config_set_max_output_tokens");
    bind(config_create, "conversation_config_create");
    bind(config_delete, "conversation_config_delete");
    bind(config_set_session, "conversation_config_set_session_config");
    bind(config_set_messages, "conversation_config_set_messages");
    bind(conversation_create, "conversation_create");
    bind(conversation_delete, "conversation_delete");
    bind(conversation_send, "conversation_send_message_stream");
    bind(conversation_cancel, "conversation_cancel_process");
    bind(conversation_render, "conversation_render_message_to_string");
    bind(tokenize, "engine_tokenize");
    bind(tokens_count, "tokenize_result_get_num_tokens");
    bind(tokens_delete, "tokenize_result_delete");
    bind(chunk_text, "stream_chunk_get_text");
    bind(chunk_error, "stream_chunk_get_error");
    bind(chunk_is_final, "stream_chunk_is_final");
  }

  Handle handle;  // never closed: threads of the library may outlive the last engine
  void (*set_min_log_level)(int);
  Handle (*settings_create)(const char* model, const char* backend, const char* vision, const char* audio);
  void (*settings_delete)(Handle);
  void (*settings_set_max_num_tokens)(Handle, int);
  void (*settings_set_num_threads)(Handle, int);
  void (*settings_set_cache_dir)(Handle, const char*);
  Handle (*engine_create)(Handle);
  void (*engine_delete)(Handle);
  Handle (*sampler_create)(int type);
  void (*sampler_delete)(Handle);
  void (*sampler_set_top_k)(Handle, int);
  void (*sampler_set_top_p)(Handle, float);
  void (*sampler_set_temperature)(Handle, float);
  void (*sampler_set_seed)(Handle, int);
  Handle (*session_create)();
  void (*session_delete)(Handle);
  void (*session_set_sampler)(Handle, Handle);
  void (*session_set_max_output_tokens)(Handle, int);
  Handle (*config_create)();
  void (*config_delete)(Handle);
  void (*config_set_session)(Handle, Handle);
  void (*config_set_messages)(Handle, const char* json);
  Handle (*conversation_create)(Handle engine, Handle config);
  void (*conversation_delete)(Handle);
  int (*conversation_send)(Handle, const char* message, const char* context, Handle, StreamCallback, void*);
  void (*conversation_cancel)(Handle);
  const char* (*conversation_render)(Handle, const char* message);
  Handle (*tokenize)(Handle engine, const char* text);
  size_t (*tokens_count)(Handle);
  void (*tokens_delete)(Handle);
  const char* (*chunk_text)(Handle);
  const char* (*chunk_error)(Handle);
  bool (*chunk_is_final)(Handle);

 private:
  template <typename Function>
  void bind(Function& function, const char* name) {
    function = reinterpret_cast<Function>(dlsym(handle, (std::string("litert_lm_") + name).c_str()));
    if (function == nullptr) throw std::runtime_error(std::string("the library lacks litert_lm_") + name);
  }
};

// Deletes a handle with the library's function for it.
class Owned {
 public:
  Owned(Handle handle, void (*destroy)(Handle), const char* what) : handle_(handle), destroy_(destroy) {
    if (handle == nullptr) throw std::runtime_error(std::string("LiteRT-LM made no ") + what);
  }
  ~Owned() { destroy_(handle_); }
  Owned(const Owned&) = delete;
  Owned& operator=(const Owned&) = delete;
  Handle get() const { return handle_; }

 private:
  Handle handle_;
  void (*destroy_)(Handle);
};

// What the engine's thread hands to the thread that waits for the answer.
struct Stream {
  struct Piece {
    std::string text, error;
    bool is_final;
  };

  void put(Piece piece) {
    const std::lock_guard lock(mutex);
    pieces.push_back(std::move(piece));
    ready.notify_one();
  }

  Piece take() {
    std::unique_lock lock(mutex);
    ready.wait(lock, [this] { return !pieces.empty(); });
    Piece piece = std::move(pieces.front());
    pieces.pop_front();
    return piece;
  }

  const Library* library;
  std::mutex mutex;
  std::condition_variable ready;
  std::deque<Piece> pieces;
};

void on_chunk(void* data, Handle chunk) {
  auto& stream = *static_cast<Stream*>(data);
  const char* error = stream.library->chunk_error(chunk);
  const char* text = stream.library->chunk_text(chunk);
  stream.put({text ? text : "", error ? error : "", error != nullptr || stream.library->chunk_is_final(chunk)});
}

struct Engine {
  std::unique_ptr<Library> library;
  Handle engine = nullptr;
  std::mutex mutex;
  Handle running = nullptr;  // the conversation that is being answered; guarded by mutex

  ~Engine() {
    if (engine != nullptr) library->engine_delete(engine);
  }
};

// Names the conversation that a cancel reaches, for as long as it is answered.
class Running {
 public:
  Running(Engine& engine, Handle conversation) : engine_(engine) { set(conversation); }
  ~Running() { set(nullptr); }

 private:
  void set(Handle conversation) {
    const std::lock_guard lock(engine_.mutex);
    engine_.running = conversation;
  }

  Engine& engine_;
};

Engine& engine_of(jlong handle) { return *reinterpret_cast<Engine*>(handle); }

constexpr int kTopP = 2;
constexpr int kErrors = 4;

}  // namespace

extern "C" {

JNIEXPORT jlong JNICALL Java_org_g3n_host_NativeLiteRtLm_open(
    JNIEnv* env, jclass, jstring library, jstring model, jstring backend, jint threads, jint max_tokens, jstring cache) {
  return g3n::guarded<jlong>(env, 0, [&] {
    auto made = std::make_unique<Engine>();
    made->library = std::make_unique<Library>(g3n::utf8(env, library));
    const Library& lib = *made->library;
    lib.set_min_log_level(kErrors);
    const std::string path = g3n::utf8(env, model);
    const Owned settings(
        lib.settings_create(path.c_str(), g3n::utf8(env, backend).c_str(), nullptr, nullptr), lib.settings_delete,
        "settings");
    lib.settings_set_max_num_tokens(settings.get(), max_tokens);
    lib.settings_set_num_threads(settings.get(), threads);
    lib.settings_set_cache_dir(settings.get(), g3n::utf8(env, cache).c_str());
    made->engine = lib.engine_create(settings.get());
    if (made->engine == nullptr) throw std::runtime_error("LiteRT-LM does not load " + path);
    return reinterpret_cast<jlong>(made.release());
  });
}

// Answers `message` after `history` (both JSON) and calls `listener.onPiece(byte[])` with each piece of JSON.
// Returns the tokens of the prompt, negative when they do not fit `max_tokens` and nothing was run.
JNIEXPORT jint JNICALL Java_org_g3n_host_NativeLiteRtLm_run(
    JNIEnv* env, jclass, jlong handle, jstring history, jstring message, jint max_tokens, jint max_new_tokens,
    jfloat temperature, jint top_k, jfloat top_p, jint seed, jobject listener) {
  return g3n::guarded<jint>(env, 0, [&]() -> jint {
    Engine& engine = engine_of(handle);
    const Library& lib = *engine.library;
    const Owned session(lib.session_create(), lib.session_delete, "session");
    {
      const Owned sampler(lib.sampler_create(kTopP), lib.sampler_delete, "sampler");
      lib.sampler_set_top_k(sampler.get(), top_k);
      lib.sampler_set_top_p(sampler.get(), top_p);
      lib.sampler_set_temperature(sampler.get(), temperature);
      lib.sampler_set_seed(sampler.get(), seed);
      lib.session_set_sampler(session.get(), sampler.get());
    }
    lib.session_set_max_output_tokens(session.get(), max_new_tokens);
    const Owned config(lib.config_create(), lib.config_delete, "configuration");
    lib.config_set_session(config.get(), session.get());
    const std::string earlier = g3n::utf8(env, history), text = g3n::utf8(env, message);
    lib.config_set_messages(config.get(), earlier.c_str());

    Stream stream;
    stream.library = &lib;
    const Owned conversation(
        lib.conversation_create(engine.engine, config.get()), lib.conversation_delete, "conversation");
    const char* rendered = lib.conversation_render(conversation.get(), text.c_str());
    if (rendered == nullptr) throw std::runtime_error("LiteRT-LM cannot render the conversation");
    jint prompt_tokens;
    {
      const Owned tokens(lib.tokenize(engine.engine, rendered), lib.tokens_delete, "tokens");
      prompt_tokens = static_cast<jint>(lib.tokens_count(tokens.get())) + 1;
    }
    if (prompt_tokens >= max_tokens) return -prompt_tokens;
    const Running running(engine, conversation.get());
    const int status = lib.conversation_send(conversation.get(), text.c_str(), "{}", nullptr, on_chunk, &stream);
    if (status != 0) throw std::runtime_error("LiteRT-LM refused the message");
    const jmethodID on_piece = env->GetMethodID(env->GetObjectClass(listener), "onPiece", "([B)V");
    std::string error;
    for (bool is_final = false; !is_final;) {
      const Stream::Piece piece = stream.take();
      is_final = piece.is_final;
      error = piece.error;
      // After a Java exception only the engine's last piece is waited for.
      if (!piece.text.empty() && !env->ExceptionCheck()) {
        jbyteArray json = g3n::bytes(env, piece.text);
        env->CallVoidMethod(listener, on_piece, json);
        env->DeleteLocalRef(json);
      }
    }
    if (!error.empty() && !env->ExceptionCheck()) throw std::runtime_error(error);
    return prompt_tokens;
  });
}

JNIEXPORT void JNICALL Java_org_g3n_host_NativeLiteRtLm_cancel(JNIEnv*, jclass, jlong handle) {
  Engine& engine = engine_of(handle);
  const std::lock_guard lock(engine.mutex);
  if (engine.running != nullptr) engine.library->conversation_cancel(engine.running);
}

JNIEXPORT void JNICALL Java_org_g3n_host_NativeLiteRtLm_close(JNIEnv*, jclass, jlong handle) {
  delete &engine_of(handle);
}

}  // extern "C"
