// org.g3n.host.NativeProgram over the wheel's libexecutorch: load a program, read its constants, run a method.
#include <executorch/extension/module/module.h>
#include <executorch/extension/tensor/tensor.h>
#include <jni.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "jni_support.h"

// The wheel exports these and ships no header for them.
namespace executorch::extension::threadpool {
class ThreadPool {
 public:
  bool _unsafe_reset_threadpool(uint32_t threads);
};
ThreadPool* get_threadpool();
}  // namespace executorch::extension::threadpool

namespace {

using executorch::extension::from_blob;
using executorch::extension::Module;
using executorch::runtime::Error;

Module& module_of(jlong handle) { return *reinterpret_cast<Module*>(handle); }

[[noreturn]] void fail(const std::string& what, Error error) {
  throw std::runtime_error(what + " failed with ExecuTorch error " + std::to_string(static_cast<int>(error)));
}

}  // namespace

extern "C" {

JNIEXPORT jlong JNICALL
Java_org_g3n_host_NativeProgram_open(JNIEnv* env, jclass, jstring path, jstring data_path, jint threads) {
  return g3n::guarded<jlong>(env, 0, [&] {
    const std::string name = g3n::utf8(env, path);
    if (auto* pool = executorch::extension::threadpool::get_threadpool()) {
      pool->_unsafe_reset_threadpool(static_cast<uint32_t>(threads));
    }
    auto module = std::make_unique<Module>(name, g3n::utf8(env, data_path), Module::LoadMode::Mmap);
    if (const Error error = module->load(); error != Error::Ok) fail("loading " + name, error);
    return reinterpret_cast<jlong>(module.release());
  });
}

JNIEXPORT jlongArray JNICALL
Java_org_g3n_host_NativeProgram_constants(JNIEnv* env, jclass, jlong handle, jstring method) {
  return g3n::guarded<jlongArray>(env, nullptr, [&] {
    const std::string name = g3n::utf8(env, method);
    const auto values = module_of(handle).execute(name);
    if (!values.ok()) fail(name, values.error());
    std::vector<jlong> out;
    for (const auto& value : *values) out.push_back(value.toInt());
    jlongArray array = env->NewLongArray(static_cast<jsize>(out.size()));
    env->SetLongArrayRegion(array, 0, static_cast<jsize>(out.size()), out.data());
    return array;
  });
}

// rows [1, positions, width] float32, positions [positions] int64; the logits after the last position.
JNIEXPORT jfloatArray JNICALL Java_org_g3n_host_NativeProgram_logits(
    JNIEnv* env, jclass, jlong handle, jstring method, jfloatArray rows, jlongArray positions) {
  return g3n::guarded<jfloatArray>(env, nullptr, [&] {
    const std::string name = g3n::utf8(env, method);
    const jsize count = env->GetArrayLength(positions), size = env->GetArrayLength(rows);
    if (count == 0 || size % count != 0) throw std::runtime_error("rows do not match positions");
    std::vector<float> row_values(static_cast<size_t>(size));
    std::vector<int64_t> position_values(static_cast<size_t>(count));
    env->GetFloatArrayRegion(rows, 0, size, row_values.data());
    env->GetLongArrayRegion(positions, 0, count, reinterpret_cast<jlong*>(position_values.data()));
    auto row_tensor = from_blob(row_values.data(), {1, count, size / count});
    auto position_tensor =
        from_blob(position_values.data(), {count}, executorch::aten::ScalarType::Long);
    const auto outputs = module_of(handle).execute(name, {row_tensor, position_tensor});
    if (!outputs.ok()) fail(name, outputs.error());
    const auto logits = outputs->at(0).toTensor();
    const auto vocabulary = static_cast<jsize>(logits.size(logits.dim() - 1));
    const float* last = logits.const_data_ptr<float>() + logits.numel() - vocabulary;
    jfloatArray array = env->NewFloatArray(vocabulary);
    env->SetFloatArrayRegion(array, 0, vocabulary, last);
    return array;
  });
}

JNIEXPORT void JNICALL Java_org_g3n_host_NativeProgram_close(JNIEnv*, jclass, jlong handle) {
  delete &module_of(handle);
}

}  // extern "C"
