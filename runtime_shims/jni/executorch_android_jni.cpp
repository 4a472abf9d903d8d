// The native methods of org.pytorch.executorch.Module, as Android's library has them, over the wheel's libexecutorch:
// they let the app's own calls of ExecuTorch's Java classes run on a computer.
#include <executorch/extension/module/module.h>
#include <executorch/extension/tensor/tensor.h>
#include <jni.h>

#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

#include "hybrid_data.h"
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

using executorch::aten::ScalarType;
using executorch::extension::from_blob;
using executorch::extension::Module;
using executorch::extension::TensorPtr;
using executorch::runtime::Error;
using executorch::runtime::EValue;

// Codes of EValue.mTypeCode.
constexpr jint kTensor = 1;
constexpr jint kInt = 4;

struct LoadedModule : g3n::Native {
  explicit LoadedModule(std::unique_ptr<Module> loaded) : module(std::move(loaded)) {}
  std::unique_ptr<Module> module;
};

Module& module_of(JNIEnv* env, jobject java_module) { return *g3n::hybrid::of<LoadedModule>(env, java_module).module; }

// The tensor in a Java EValue; its memory is the Java tensor's direct buffer.
TensorPtr tensor_of(JNIEnv* env, jobject value) {
  jclass value_class = env->GetObjectClass(value);
  if (env->GetIntField(value, env->GetFieldID(value_class, "mTypeCode", "I")) != kTensor) {
    throw std::runtime_error("an argument is no tensor");
  }
  jobject tensor = env->GetObjectField(value, env->GetFieldID(value_class, "mData", "Ljava/lang/Object;"));
  jclass tensor_class = env->FindClass("org/pytorch/executorch/Tensor");
  jobject buffer =
      env->CallObjectMethod(tensor, env->GetMethodID(tensor_class, "getRawDataBuffer", "()Ljava/nio/Buffer;"));
  const jint dtype = env->CallIntMethod(tensor, env->GetMethodID(tensor_class, "dtypeJniCode", "()I"));
  auto shape = static_cast<jlongArray>(env->GetObjectField(tensor, env->GetFieldID(tensor_class, "shape", "[J")));
  std::vector<jlong> sizes(static_cast<size_t>(env->GetArrayLength(shape)));
  env->GetLongArrayRegion(shape, 0, static_cast<jsize>(sizes.size()), sizes.data());
  return from_blob(
      env->GetDirectBufferAddress(buffer), {sizes.begin(), sizes.end()}, static_cast<ScalarType>(dtype));
}

jobject java_value(JNIEnv* env, const EValue& value) {
  jclass value_class = env->FindClass("org/pytorch/executorch/EValue");
  if (value.isInt()) {
    const jmethodID from = env->GetStaticMethodID(value_class, "from", "(J)Lorg/pytorch/executorch/EValue;");
    return env->CallStaticObjectMethod(value_class, from, static_cast<jlong>(value.toInt()));
  }
  if (!value.isTensor()) throw std::runtime_error("a result is neither a tensor nor an integer");
  const auto tensor = value.toTensor();
  jclass tensor_class = env->FindClass("org/pytorch/executorch/Tensor");
  const jmethodID allocate = env->GetStaticMethodID(tensor_class, "allocateByteBuffer", "(I)Ljava/nio/ByteBuffer;");
  jobject buffer = env->CallStaticObjectMethod(tensor_class, allocate, static_cast<jint>(tensor.nbytes()));
  std::memcpy(env->GetDirectBufferAddress(buffer), tensor.const_data_ptr(), tensor.nbytes());
  const std::vector<jlong> sizes(tensor.sizes().begin(), tensor.sizes().end());
  jlongArray shape = env->NewLongArray(static_cast<jsize>(sizes.size()));
  env->SetLongArrayRegion(shape, 0, static_cast<jsize>(sizes.size()), sizes.data());
  const jmethodID make = env->GetStaticMethodID(
      tensor_class, "nativeNewTensor",
      "(Ljava/nio/ByteBuffer;[JILcom/facebook/jni/HybridData;)Lorg/pytorch/executorch/Tensor;");
  jobject made = env->CallStaticObjectMethod(
      tensor_class, make, buffer, shape, static_cast<jint>(tensor.scalar_type()), nullptr);
  const jmethodID from = env->GetStaticMethodID(
      value_class, "from", "(Lorg/pytorch/executorch/Tensor;)Lorg/pytorch/executorch/EValue;");
  return env->CallStaticObjectMethod(value_class, from, made);
}

jobjectArray strings(JNIEnv* env, const std::vector<std::string>& texts) {
  jobjectArray out =
      env->NewObjectArray(static_cast<jsize>(texts.size()), env->FindClass("java/lang/String"), nullptr);
  for (size_t i = 0; i < texts.size(); i++) {
    env->SetObjectArrayElement(out, static_cast<jsize>(i), env->NewStringUTF(texts[i].c_str()));
  }
  return out;
}

}  // namespace

#define G3N_JNI(Result, name) JNIEXPORT Result JNICALL Java_org_pytorch_executorch_Module_##name

extern "C" {

JNIEXPORT void JNICALL Java_com_facebook_jni_HybridData_00024Destructor_deleteNative(JNIEnv*, jclass, jlong pointer) {
  delete reinterpret_cast<g3n::Native*>(pointer);
}

G3N_JNI(jobject, initHybrid)(JNIEnv* env, jclass, jstring path, jint load_mode, jint threads) {
  return g3n::guarded<jobject>(env, nullptr, [&] {
    if (auto* pool = executorch::extension::threadpool::get_threadpool(); pool != nullptr && threads > 0) {
      pool->_unsafe_reset_threadpool(static_cast<uint32_t>(threads));
    }
    auto module = std::make_unique<Module>(g3n::utf8(env, path), static_cast<Module::LoadMode>(load_mode));
    return g3n::hybrid::make(env, std::make_unique<LoadedModule>(std::move(module)));
  });
}

// Android's library keeps what ExecuTorch logs, and every exception asks for it. Here it went to standard error.
G3N_JNI(jobjectArray, readLogBufferStaticNative)(JNIEnv* env, jclass) { return strings(env, {}); }

G3N_JNI(jobjectArray, getMethodsNative)(JNIEnv* env, jobject self) {
  return g3n::guarded<jobjectArray>(env, nullptr, [&] {
    const auto names = module_of(env, self).method_names();
    if (!names.ok()) throw std::runtime_error("the program cannot be read");
    return strings(env, {names->begin(), names->end()});
  });
}

G3N_JNI(jobjectArray, getUsedBackends)(JNIEnv* env, jobject self, jstring method) {
  return g3n::guarded<jobjectArray>(env, nullptr, [&] {
    const auto meta = module_of(env, self).method_meta(g3n::utf8(env, method));
    if (!meta.ok()) throw std::runtime_error("the program has no such method");
    std::vector<std::string> names;
    for (size_t i = 0; i < meta->num_backends(); i++) names.emplace_back(*meta->get_backend_name(i));
    return strings(env, names);
  });
}

G3N_JNI(jint, loadMethodNative)(JNIEnv* env, jobject self, jstring method) {
  return g3n::guarded<jint>(env, 1, [&] {
    return static_cast<jint>(module_of(env, self).load_method(g3n::utf8(env, method)));
  });
}

G3N_JNI(jobjectArray, executeNative)(JNIEnv* env, jobject self, jstring method, jobjectArray arguments) {
  return g3n::guarded<jobjectArray>(env, nullptr, [&] {
    std::vector<TensorPtr> tensors;
    std::vector<EValue> values;
    for (jsize i = 0; i < env->GetArrayLength(arguments); i++) {
      tensors.push_back(tensor_of(env, env->GetObjectArrayElement(arguments, i)));
      values.emplace_back(*tensors.back());
    }
    const std::string name = g3n::utf8(env, method);
    const auto outputs = module_of(env, self).execute(name, values);
    if (!outputs.ok()) {
      throw std::runtime_error(name + " failed with ExecuTorch error " + std::to_string(static_cast<int>(outputs.error())));
    }
    jobjectArray out = env->NewObjectArray(
        static_cast<jsize>(outputs->size()), env->FindClass("org/pytorch/executorch/EValue"), nullptr);
    for (size_t i = 0; i < outputs->size(); i++) {
      env->SetObjectArrayElement(out, static_cast<jsize>(i), java_value(env, outputs->at(i)));
    }
    return out;
  });
}

}  // extern "C"
