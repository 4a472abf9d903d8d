// LiteRT-LM's C library, for a test, on a machine whose GPU takes a bundle and gives nothing: loading for it succeeds, and
// the first answer is an error, as on a phone without OpenCL. All else, the CPU among it, is the library's own.
//   g++ -std=c++17 -shared -fPIC -DLIBRARY='"FILE"' -o OUT broken_gpu.cpp -Wl,--no-as-needed FILE
#include <dlfcn.h>

#include <string_view>

namespace {

using Handle = void*;
using StreamCallback = void (*)(void* data, Handle chunk);

// What the callback gets instead of a piece of the answer.
char error_chunk;
bool is_on_gpu = false;

template <typename Function>
Function own(Function, const char* name) {
  static void* library = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL);
  return reinterpret_cast<Function>(dlsym(library, name));
}

}  // namespace

extern "C" {

Handle litert_lm_engine_settings_create(const char* model, const char* backend, const char* vision, const char* audio) {
  is_on_gpu = std::string_view(backend) == "gpu";
  return own(litert_lm_engine_settings_create, __func__)(model, "cpu", vision ? "cpu" : nullptr, audio);
}

int litert_lm_conversation_send_message_stream(
    Handle conversation, const char* message, const char* context, Handle options, StreamCallback callback, void* data) {
  if (!is_on_gpu) {
    const auto send = own(litert_lm_conversation_send_message_stream, __func__);
    return send(conversation, message, context, options, callback, data);
  }
  callback(data, &error_chunk);
  return 0;
}

const char* litert_lm_stream_chunk_get_error(Handle chunk) {
  if (chunk == &error_chunk) return "INTERNAL: Can not find OpenCL library on this device";
  return own(litert_lm_stream_chunk_get_error, __func__)(chunk);
}

const char* litert_lm_stream_chunk_get_text(Handle chunk) {
  return chunk == &error_chunk ? nullptr : own(litert_lm_stream_chunk_get_text, __func__)(chunk);
}

bool litert_lm_stream_chunk_is_final(Handle chunk) {
  return chunk == &error_chunk || own(litert_lm_stream_chunk_is_final, __func__)(chunk);
}

}  // extern "C"
