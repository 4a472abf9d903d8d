// com.google.ai.edge.litertlm.NativeLiteRtLm over LiteRT-LM's C library, as its Python wheel ships it.
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
    bind(conversation_tokens, "conversation_get_token_count");
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
  int (*conversation_tokens)(Handle);
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

// Opened once and never closed: threads of the library may outlive the last engine.
std::unique_ptr<Library> the_library;

// One conversation, and the answer to the message that was sent last.
struct Conversation {
  Handle handle = nullptr;
  Stream stream;

  ~Conversation() {
    if (handle != nullptr) the_library->conversation_delete(handle);
  }
};

Conversation& conversation_of(jlong handle) { return *reinterpret_cast<Conversation*>(handle); }

// A Java string that may be null.
struct Optional {
  Optional(JNIEnv* env, jstring text) : is_there(text != nullptr), value(is_there ? g3n::utf8(env, text) : "") {}
  const char* get() const { return is_there ? value.c_str() : nullptr; }
  bool is_there;
  std::string value;
};

constexpr int kTopP = 2;
constexpr int kErrors = 4;

}  // namespace

#define G3N_JNI(Result, name) JNIEXPORT Result JNICALL Java_com_google_ai_edge_litertlm_NativeLiteRtLm_##name

extern "C" {

G3N_JNI(void, load)(JNIEnv* env, jclass, jstring path) {
  g3n::guarded<int>(env, 0, [&] {
    auto opened = std::make_unique<Library>(g3n::utf8(env, path));
    opened->set_min_log_level(kErrors);
    the_library = std::move(opened);
    return 0;
  });
}

G3N_JNI(jlong, open)(
    JNIEnv* env, jclass, jstring model, jstring backend, jstring vision, jstring audio, jint threads, jint max_tokens,
    jstring cache) {
  return g3n::guarded<jlong>(env, 0, [&] {
    const Library& lib = *the_library;
    const std::string path = g3n::utf8(env, model);
    const Optional on_vision(env, vision), on_audio(env, audio), cache_folder(env, cache);
    const Owned settings(
        lib.settings_create(path.c_str(), g3n::utf8(env, backend).c_str(), on_vision.get(), on_audio.get()),
        lib.settings_delete, "settings");
    if (max_tokens > 0) lib.settings_set_max_num_tokens(settings.get(), max_tokens);
    if (threads > 0) lib.settings_set_num_threads(settings.get(), threads);
    if (cache_folder.is_there) lib.settings_set_cache_dir(settings.get(), cache_folder.get());
    Handle engine = lib.engine_create(settings.get());
    if (engine == nullptr) throw std::runtime_error("LiteRT-LM does not load " + path);
    return reinterpret_cast<jlong>(engine);
  });
}

// A conversation that begins with `history`, a JSON list of messages.
G3N_JNI(jlong, converse)(
    JNIEnv* env, jclass, jlong engine, jstring history, jint max_new_tokens, jfloat temperature, jint top_k, jfloat top_p,
    jint seed) {
  return g3n::guarded<jlong>(env, 0, [&] {
    const Library& lib = *the_library;
    const Owned session(lib.session_create(), lib.session_delete, "session");
    {
      const Owned sampler(lib.sampler_create(kTopP), lib.sampler_delete, "sampler");
      lib.sampler_set_top_k(sampler.get(), top_k);
      lib.sampler_set_top_p(sampler.get(), top_p);
      lib.sampler_set_temperature(sampler.get(), temperature);
      lib.sampler_set_seed(sampler.get(), seed);
      lib.session_set_sampler(session.get(), sampler.get());
    }
    if (max_new_tokens > 0) lib.session_set_max_output_tokens(session.get(), max_new_tokens);
    const Owned config(lib.config_create(), lib.config_delete, "configuration");
    lib.config_set_session(config.get(), session.get());
    lib.config_set_messages(config.get(), g3n::utf8(env, history).c_str());
    auto made = std::make_unique<Conversation>();
    made->stream.library = &lib;
    made->handle = lib.conversation_create(reinterpret_cast<Handle>(engine), config.get());
    if (made->handle == nullptr) throw std::runtime_error("LiteRT-LM made no conversation");
    return reinterpret_cast<jlong>(made.release());
  });
}

G3N_JNI(void, send)(JNIEnv* env, jclass, jlong handle, jstring message) {
  g3n::guarded<int>(env, 0, [&] {
    Conversation& conversation = conversation_of(handle);
    const std::string text = g3n::utf8(env, message);
    const int status = the_library->conversation_send(
        conversation.handle, text.c_str(), "{}", nullptr, on_chunk, &conversation.stream);
    if (status != 0) throw std::runtime_error("LiteRT-LM refused the message");
    return 0;
  });
}

// Calls `listener.onPiece(byte[])` with each piece of JSON until the answer has ended.
G3N_JNI(void, receive)(JNIEnv* env, jclass, jlong handle, jobject listener) {
  g3n::guarded<int>(env, 0, [&] {
    Stream& stream = conversation_of(handle).stream;
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
    return 0;
  });
}

G3N_JNI(void, cancel)(JNIEnv*, jclass, jlong handle) {
  the_library->conversation_cancel(conversation_of(handle).handle);
}

// Tokens in the caches, of the prompt and of the answer.
G3N_JNI(jint, tokens)(JNIEnv*, jclass, jlong handle) {
  return the_library->conversation_tokens(conversation_of(handle).handle);
}

G3N_JNI(void, closeConversation)(JNIEnv*, jclass, jlong handle) { delete &conversation_of(handle); }

G3N_JNI(void, close)(JNIEnv*, jclass, jlong engine) { the_library->engine_delete(reinterpret_cast<Handle>(engine)); }

}  // extern "C"
