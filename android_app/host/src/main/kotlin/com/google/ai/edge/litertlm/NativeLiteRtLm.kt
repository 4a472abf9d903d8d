package com.google.ai.edge.litertlm

/**
 * The native side of [Engine] and [Conversation] on a computer, see `runtime_shims/jni/litertlm_jni.cpp`.
 *
 * The system properties `g3n.shims` (folder of the shims) and `g3n.litertlm` (LiteRT-LM's library) say where it is.
 */
internal object NativeLiteRtLm {
    init {
        System.load("${System.getProperty("g3n.shims")}/libg3n_litertlm.so")
        load(checkNotNull(System.getProperty("g3n.litertlm")) { "run with -Dg3n.litertlm=FILE" })
    }

    /** Gets each piece of an answer, as UTF-8 of a JSON message. */
    fun interface Listener {
        fun onPiece(json: ByteArray)
    }

    @JvmStatic
    private external fun load(library: String)

    @JvmStatic
    @Suppress("LongParameterList")
    external fun open(
        model: String,
        backend: String,
        vision: String?,
        audio: String?,
        threads: Int,
        maxTokens: Int,
        cache: String?,
    ): Long

    @JvmStatic
    @Suppress("LongParameterList")
    external fun converse(
        handle: Long,
        history: String,
        maxNewTokens: Int,
        temperature: Float,
        topK: Int,
        topP: Float,
        seed: Int,
    ): Long

    /** Hands [message] to the library and returns. */
    @JvmStatic
    external fun send(conversation: Long, message: String)

    /** Waits for the answer to [send]; raises [RuntimeException] if it fails or was cancelled. */
    @JvmStatic
    external fun receive(conversation: Long, listener: Listener)

    @JvmStatic
    external fun cancel(conversation: Long)

    /** Tokens in the caches, of the prompt and of the answer. */
    @JvmStatic
    external fun tokens(conversation: Long): Int

    @JvmStatic
    external fun closeConversation(conversation: Long)

    @JvmStatic
    external fun close(handle: Long)
}
