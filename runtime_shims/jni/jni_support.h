// Small helpers for both shims: strings across the border, and C++ exceptions as Java's.
#pragma once

#include <jni.h>

#include <exception>
#include <stdexcept>
#include <string>
#include <utility>

namespace g3n {

// UTF-8 of a Java string. GetStringUTFChars would give Java's own variant, which spells characters beyond 16 bits
// and NUL in another way.
inline std::string utf8(JNIEnv* env, jstring text) {
  jclass string = env->FindClass("java/lang/String");
  jmethodID get_bytes = env->GetMethodID(string, "getBytes", "(Ljava/lang/String;)[B");
  jstring charset = env->NewStringUTF("UTF-8");
  auto bytes = static_cast<jbyteArray>(env->CallObjectMethod(text, get_bytes, charset));
  std::string out(static_cast<size_t>(env->GetArrayLength(bytes)), '\0');
  env->GetByteArrayRegion(bytes, 0, static_cast<jsize>(out.size()), reinterpret_cast<jbyte*>(out.data()));
  for (jobject local : {static_cast<jobject>(bytes), static_cast<jobject>(charset), static_cast<jobject>(string)}) {
    env->DeleteLocalRef(local);
  }
  return out;
}

// The bytes of `text` as a Java byte array: the Kotlin side decodes them.
inline jbyteArray bytes(JNIEnv* env, const std::string& text) {
  jbyteArray out = env->NewByteArray(static_cast<jsize>(text.size()));
  env->SetByteArrayRegion(out, 0, static_cast<jsize>(text.size()), reinterpret_cast<const jbyte*>(text.data()));
  return out;
}

// `text` as a Java string.
inline jstring java_string(JNIEnv* env, const std::string& text) {
  jclass string = env->FindClass("java/lang/String");
  const jmethodID decode = env->GetMethodID(string, "<init>", "([BLjava/lang/String;)V");
  jbyteArray encoded = bytes(env, text);
  jstring charset = env->NewStringUTF("UTF-8");
  auto out = static_cast<jstring>(env->NewObject(string, decode, encoded, charset));
  for (jobject local : {static_cast<jobject>(encoded), static_cast<jobject>(charset), static_cast<jobject>(string)}) {
    env->DeleteLocalRef(local);
  }
  return out;
}

// Runs `body`; a C++ exception becomes a java.lang.RuntimeException and `failed` is returned.
template <typename Result, typename Body>
Result guarded(JNIEnv* env, Result failed, Body&& body) {
  try {
    return std::forward<Body>(body)();
  } catch (const std::exception& error) {
    env->ThrowNew(env->FindClass("java/lang/RuntimeException"), error.what());
    return failed;
  }
}

}  // namespace g3n
