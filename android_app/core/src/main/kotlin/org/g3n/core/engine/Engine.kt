package org.g3n.core.engine

import org.g3n.core.bundle.Bundle
import org.g3n.core.bundle.Device
import org.g3n.core.bundle.Runtime
import org.g3n.core.bundle.Sampling
import org.g3n.core.chat.Turn
import java.io.File

/**
 * How to load a bundle.
 *
 * @property cacheDirectory where an engine may keep what makes its next load faster.
 * @property size the name of an elastic bundle's size; `null` where there is no choice.
 */
data class EngineConfig(
    val bundle: Bundle,
    val runtime: Runtime,
    val device: Device,
    val threads: Int,
    val cacheDirectory: File?,
    val size: String? = null,
) {
    /** For engines that run a bundle at the one size it was compiled for; raises [EngineException] if one was chosen. */
    fun requireNoSize() {
        if (size != null) throw EngineException("this engine cannot run the bundle at the size $size: update the app")
    }
}

/** Why an answer ended. */
enum class Finish {
    /** The model ended its turn. */
    END_OF_TURN,

    /** As many tokens as were asked for. */
    LENGTH,

    /** The context is full. */
    CONTEXT_FULL,

    /** [Engine.stop] was called. */
    STOPPED,
}

/** What an engine tells of one answer; token counts are `null` where it does not count. */
data class Answer(val finish: Finish, val promptTokens: Int?, val newTokens: Int?)

/** An engine refused a bundle or a prompt; the message says why. */
class EngineException(message: String, cause: Throwable? = null) : Exception(message, cause)

/** The conversation is longer than the bundle's context. */
class ContextFull(message: String) : Exception(message)

/**
 * A loaded bundle, whatever runs it.
 *
 * All calls but [stop] come from one background thread.
 */
interface Engine {
    /** Loads; may take seconds. Raises [EngineException]. */
    fun initialize(config: EngineConfig)

    /**
     * Answers the last of [turns], a user's, and returns when the answer has ended; [onPiece] gets its text as it comes.
     *
     * Raises [EngineException] and [ContextFull].
     */
    fun run(turns: List<Turn>, sampling: Sampling, maxNewTokens: Int, onPiece: (String) -> Unit): Answer

    /** Ends a running [run] soon; callable from any thread, and without effect where nothing runs. */
    fun stop()

    /** Forgets what earlier runs left in the caches. */
    fun reset()

    /** Frees everything; the engine may be initialized again. */
    fun cleanUp()
}

/** Makes the engine of a runtime. */
fun interface EngineFactory {
    /** Raises [EngineException] for a runtime that this build of the app does not carry. */
    fun create(runtime: Runtime): Engine
}
