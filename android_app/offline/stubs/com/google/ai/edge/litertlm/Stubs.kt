// Compile-only signatures of the part of LiteRT-LM's Android library that the app calls. Written for building where
// Google's Maven repository cannot be reached; nothing of this file goes into an APK, and a build with Gradle uses the
// real library instead.
@file:Suppress("UNUSED_PARAMETER", "unused")

package com.google.ai.edge.litertlm

private fun stub(): Nothing = throw NotImplementedError("a signature without a body: build with the real library")

sealed class Backend {
    data class CPU(val threadCount: Int? = null) : Backend()

    class GPU : Backend()
}

data class EngineConfig(
    val modelPath: String,
    val backend: Backend,
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
    data class Text(val text: String) : Content()

    data class ImageFile(val absolutePath: String) : Content()

    data class AudioFile(val absolutePath: String) : Content()
}

class Contents private constructor() {
    companion object {
        fun of(contents: List<Content>): Contents = stub()
    }
}

class Message private constructor() {
    companion object {
        fun user(contents: Contents): Message = stub()

        fun model(contents: Contents): Message = stub()
    }
}

interface MessageCallback {
    fun onMessage(message: Message)

    fun onDone()

    fun onError(throwable: Throwable)
}

class Conversation private constructor() : AutoCloseable {
    fun sendMessageAsync(message: Message, callback: MessageCallback): Unit = stub()

    fun cancelProcess(): Unit = stub()

    override fun close(): Unit = stub()
}

class Engine(config: EngineConfig) : AutoCloseable {
    fun isInitialized(): Boolean = stub()

    fun initialize(): Unit = stub()

    fun createConversation(config: ConversationConfig): Conversation = stub()

    override fun close(): Unit = stub()
}
