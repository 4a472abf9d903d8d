package org.g3n.host

/** The native side of [HostProgram], see `runtime_shims/jni/executorch_jni.cpp`. */
internal object NativeProgram {
    @JvmStatic
    external fun open(path: String, dataPath: String, threads: Int): Long

    @JvmStatic
    external fun constants(handle: Long, method: String): LongArray

    @JvmStatic
    external fun logits(handle: Long, method: String, rows: FloatArray, positions: LongArray): FloatArray

    @JvmStatic
    external fun close(handle: Long)
}
