package org.g3n.host

import com.google.gson.JsonArray
import com.google.gson.JsonObject
import org.g3n.core.bundle.Device
import org.g3n.core.bundle.Json
import org.g3n.core.bundle.Sampling
import org.g3n.core.chat.Role
import org.g3n.core.chat.Turn
import org.g3n.core.engine.Answer
import org.g3n.core.engine.ContextFull
import org.g3n.core.engine.Engine
import org.g3n.core.engine.EngineConfig
import org.g3n.core.engine.EngineException
import org.g3n.core.engine.Finish

/**
 * LiteRT-LM on the host's JVM, through the C library of its Python wheel.
 *
 * @param library path of `liblitert-lm.so`.
 */
class LiteRtLmHostEngine(private val library: String) : Engine {
    @Volatile
    private var handle = 0L

    @Volatile
    private var stopRequested = false
    private var context = 0

    override fun initialize(config: EngineConfig) {
        cleanUp()
        config.requireNoSize()
        val model = config.bundle.file("litertlm").path
        val backend = if (config.device == Device.CPU) "cpu" else "gpu"
        context = config.bundle.manifest.context
        val cache = config.cacheDirectory?.path ?: ":nocache"
        handle = translated { NativeLiteRtLm.open(library, model, backend, config.threads, context, cache) }
    }

    override fun run(turns: List<Turn>, sampling: Sampling, maxNewTokens: Int, onPiece: (String) -> Unit): Answer {
        if (handle == 0L) throw EngineException("the engine is not initialized")
        stopRequested = false
        val history = JsonArray().apply { turns.dropLast(1).forEach { add(message(it)) } }
        val topK = if (sampling.temperature == 0.0) 1 else sampling.topK
        var pieces = 0
        val promptTokens = try {
            NativeLiteRtLm.run(
                handle, history.toString(), message(turns.last()).toString(), context, maxNewTokens,
                sampling.temperature.toFloat(), topK, sampling.topP.toFloat(), sampling.seed,
            ) { json ->
                val text = textOf(json.decodeToString())
                if (text.isNotEmpty()) {
                    pieces++
                    onPiece(text)
                }
            }
        } catch (error: RuntimeException) {
            if (stopRequested) return Answer(Finish.STOPPED, null, pieces)
            throw EngineException(error.message ?: "LiteRT-LM failed", error)
        }
        if (promptTokens < 0) {
            throw ContextFull("the conversation has ${-promptTokens} tokens, the bundle's context is $context: start anew")
        }
        val finish = when {
            stopRequested -> Finish.STOPPED
            pieces >= maxNewTokens -> Finish.LENGTH
            else -> Finish.END_OF_TURN
        }
        return Answer(finish, promptTokens, pieces)
    }

    override fun stop() {
        stopRequested = true
        if (handle != 0L) NativeLiteRtLm.cancel(handle)
    }

    /** Every run makes a conversation of its own, so there is nothing to forget. */
    override fun reset() = Unit

    override fun cleanUp() {
        if (handle != 0L) NativeLiteRtLm.close(handle)
        handle = 0L
    }

    private fun message(turn: Turn): JsonObject = JsonObject().apply {
        addProperty("role", ROLES.getValue(turn.role))
        addProperty("content", turn.text)
    }

    private fun textOf(json: String): String {
        val content = (Json.parse(json) as? Map<*, *>)?.get("content") as? List<*> ?: return ""
        return content.joinToString("") { (it as? Map<*, *>)?.get("text") as? String ?: "" }
    }

    private companion object {
        val ROLES = mapOf(Role.SYSTEM to "system", Role.USER to "user", Role.MODEL to "assistant")
    }
}
