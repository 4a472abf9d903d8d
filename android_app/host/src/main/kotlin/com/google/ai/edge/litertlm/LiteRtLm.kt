// The part of LiteRT-LM's Android library that the app calls, with its declarations (offline/signatures) and bodies over
// the C library of its Python wheel, for the JVM of a computer. Nothing of this goes into an APK: one built without
// Google's Maven repository is compiled against it, and a build with Gradle uses the real library instead.
package com.google.ai.edge.litertlm

import com.google.gson.JsonArray
import com.google.gson.JsonObject
import com.google.gson.JsonParser

sealed class Backend(internal val id: String) {
    data class CPU(val threadCount: Int? = null) : Backend("cpu")

    class GPU : Backend("gpu")
}

data class EngineConfig(
    val modelPath: String,
    val backend: Backend = Backend.CPU(),
    val visionBackend: Backend? = null,
    val audioBackend: Backend? = null,
    val maxNumTokens: Int? = null,
    val cacheDir: String? = null,
)

data class SamplerConfig(val topK: Int, val topP: Double, val temperature: Double, val seed: Int = 0)

data class ConversationConfig(
    val initialMessages: List<Message> = emptyList(),
    val samplerConfig: SamplerConfig? = null,
    val maxOutputToken: Int? = null,
)

sealed class Content {
    internal abstract fun toJson(): JsonObject

    data class Text(val text: String) : Content() {
        override fun toJson() = json("text", "text", text)
    }

    data class ImageFile(val absolutePath: String) : Content() {
        override fun toJson() = json("image", "path", absolutePath)
    }

    data class AudioFile(val absolutePath: String) : Content() {
        override fun toJson() = json("audio", "path", absolutePath)
    }

    protected fun json(type: String, name: String, value: String) = JsonObject().apply {
        addProperty("type", type)
        addProperty(name, value)
    }
}

class Contents private constructor(internal val parts: List<Content>) {
    companion object {
        fun of(contents: List<Content>): Contents = Contents(contents)
    }
}

class Message private constructor(private val role: String, private val contents: Contents) {
    override fun toString(): String = contents.parts.filterIsInstance<Content.Text>().joinToString("") { it.text }

    internal fun toJson() = JsonObject().apply {
        addProperty("role", role)
        add("content", JsonArray().apply { contents.parts.forEach { add(it.toJson()) } })
    }

    companion object {
        fun system(contents: Contents): Message = Message("system", contents)

        fun user(contents: Contents): Message = Message("user", contents)

        fun model(contents: Contents): Message = Message("assistant", contents)

        internal fun of(json: String): Message {
            val parts = JsonParser.parseString(json).asJsonObject.getAsJsonArray("content") ?: JsonArray()
            val texts = parts.mapNotNull { it.asJsonObject.get("text")?.asString }
            return model(Contents.of(listOf(Content.Text(texts.joinToString("")))))
        }
    }
}

interface MessageCallback {
    fun onMessage(message: Message)

    fun onDone()

    fun onError(throwable: Throwable)
}

class Conversation internal constructor(private var handle: Long) : AutoCloseable {
    private var answering: Thread? = null

    fun sendMessageAsync(message: Message, callback: MessageCallback) {
        check(handle != 0L) { "Conversation is not alive." }
        NativeLiteRtLm.send(handle, message.toJson().toString())
        answering = Thread({ answer(callback) }, "litert-lm").apply { start() }
    }

    private fun answer(callback: MessageCallback) {
        try {
            NativeLiteRtLm.receive(handle) { json -> callback.onMessage(Message.of(json.decodeToString())) }
            callback.onDone()
        } catch (error: RuntimeException) {
            callback.onError(error)
        }
    }

    fun cancelProcess() {
        check(handle != 0L) { "Conversation is not alive." }
        NativeLiteRtLm.cancel(handle)
    }

    fun getTokenCount(): Int {
        check(handle != 0L) { "Conversation is not alive." }
        return NativeLiteRtLm.tokens(handle)
    }

    override fun close() {
        check(handle != 0L) { "Conversation is not alive." }
        answering?.join()
        NativeLiteRtLm.closeConversation(handle)
        handle = 0L
    }
}

class Engine(private val engineConfig: EngineConfig) : AutoCloseable {
    private var handle = 0L

    fun isInitialized(): Boolean = handle != 0L

    fun initialize() {
        check(!isInitialized()) { "Engine is already initialized." }
        val threads = (engineConfig.backend as? Backend.CPU)?.threadCount ?: 0
        handle = NativeLiteRtLm.open(
            engineConfig.modelPath, engineConfig.backend.id, engineConfig.visionBackend?.id, engineConfig.audioBackend?.id, threads,
            engineConfig.maxNumTokens ?: 0, engineConfig.cacheDir,
        )
    }

    fun createConversation(conversationConfig: ConversationConfig): Conversation {
        check(isInitialized()) { "Engine is not initialized." }
        val history = JsonArray().apply { conversationConfig.initialMessages.forEach { add(it.toJson()) } }
        val sampler = conversationConfig.samplerConfig ?: SamplerConfig(1, 1.0, 1.0)
        return Conversation(
            NativeLiteRtLm.converse(
                handle, history.toString(), conversationConfig.maxOutputToken ?: 0, sampler.temperature.toFloat(), sampler.topK,
                sampler.topP.toFloat(), sampler.seed,
            ),
        )
    }

    override fun close() {
        check(isInitialized()) { "Engine is not initialized." }
        NativeLiteRtLm.close(handle)
        handle = 0L
    }
}
