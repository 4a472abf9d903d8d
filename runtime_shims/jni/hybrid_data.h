// The native object behind a Java object of ExecuTorch's, where fbjni's HybridData keeps its address.
#pragma once

#include <jni.h>

#include <memory>

namespace g3n {

// What HybridData owns; Java frees it by way of this destructor.
class Native {
 public:
  virtual ~Native() = default;
};

namespace hybrid {

inline jobject destructor_of(JNIEnv* env, jobject data) {
  return env->GetObjectField(
      data, env->GetFieldID(env->GetObjectClass(data), "mDestructor", "Lcom/facebook/jni/HybridData$Destructor;"));
}

inline jfieldID pointer_field(JNIEnv* env, jobject destructor) {
  return env->GetFieldID(env->GetObjectClass(destructor), "mNativePointer", "J");
}

// A HybridData that owns `native`.
inline jobject make(JNIEnv* env, std::unique_ptr<Native> native) {
  jclass data_class = env->FindClass("com/facebook/jni/HybridData");
  jobject data = env->NewObject(data_class, env->GetMethodID(data_class, "<init>", "()V"));
  jobject destructor = destructor_of(env, data);
  env->SetLongField(destructor, pointer_field(env, destructor), reinterpret_cast<jlong>(native.release()));
  return data;
}

// The native object of `self`, whose field mHybridData owns it.
template <typename Object>
Object& of(JNIEnv* env, jobject self) {
  const jfieldID field = env->GetFieldID(env->GetObjectClass(self), "mHybridData", "Lcom/facebook/jni/HybridData;");
  jobject destructor = destructor_of(env, env->GetObjectField(self, field));
  return static_cast<Object&>(*reinterpret_cast<Native*>(env->GetLongField(destructor, pointer_field(env, destructor))));
}

}  // namespace hybrid
}  // namespace g3n
