package org.g3n.host

/** The native side of [LiteRtLmHostEngine], see `runtime_shims/jni/litertlm_jni.cpp`. */
internal object NativeLiteRtLm {
    /** Gets each piece of an answer, as UTF-8 of a JSON message. */
    fun interface Listener {
        fun onPiece(json: ByteArray)
    }

    @JvmStatic
    external fun open(library: String, model: String, backend: String, threads: Int, maxTokens: Int, cache: String): Long

    @JvmStatic
    @Suppress("LongParameterList")
    external fun run(
        handle: Long,
        history: String,
        message: String,
        maxTokens: Int,
        maxNewTokens: Int,
        temperature: Float,
        topK: Int,
        topP: Float,
        seed: Int,
        listener: Listener,
    ): Int

    @JvmStatic
    external fun cancel(handle: Long)

    @JvmStatic
    external fun close(handle: Long)
}
