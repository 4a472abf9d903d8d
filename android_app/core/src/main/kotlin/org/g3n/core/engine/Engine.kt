package org.g3n.core.engine

import org.g3n.core.bundle.Bundle
import org.g3n.core.bundle.BundleSize
import org.g3n.core.bundle.Device
import org.g3n.core.bundle.Manifest
import org.g3n.core.bundle.Modality
import org.g3n.core.bundle.Runtime
import org.g3n.core.bundle.Sampling
import org.g3n.core.chat.NUL
import org.g3n.core.chat.Turn
import java.io.File

/**
 * How to load a bundle.
 *
 * @property cacheDirectory where an engine may keep what makes its next load faster.
 * @property size the name of an elastic bundle's size; `null` for the whole model.
 * @property context tokens to make room for; engines that cannot shorten their caches have the bundle's own.
 */
data class EngineConfig(
    val bundle: Bundle,
    val runtime: Runtime,
    val device: Device,
    val threads: Int,
    val cacheDirectory: File?,
    val size: String? = null,
    val context: Int = bundle.manifest.context,
) {
    /** For engines that run a bundle whole, which is its first size; raises [EngineException] if another was chosen. */
    fun requireWhole() {
        if (size != null && size != bundle.manifest.sizes.firstOrNull()?.name) {
            throw EngineException("this engine cannot run the bundle at the size $size: choose the largest")
        }
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

    /** A [StopSignal] was requested. */
    STOPPED,
}

/** What a person should know of how a bundle was loaded. */
enum class Notice {
    /** The engine read its cache back wrongly and runs without one: it loads more slowly. */
    CACHE_OFF,
}

/** What an engine tells of one answer; token counts are `null` where it does not count. */
data class Answer(val finish: Finish, val promptTokens: Int?, val newTokens: Int?)

/** An engine refused a bundle or a prompt; the message says why. */
class EngineException(message: String, cause: Throwable? = null) : Exception(message, cause)

/** The conversation is longer than the bundle's context. */
class ContextFull(message: String) : Exception(message)

/** Raises [EngineException] for a [text] with a [NUL]: some engines would answer what comes before it. */
fun requireNoNul(text: String) {
    if (NUL in text) throw EngineException("a NUL character in a prompt would end it there for some engines: leave it out")
}

/**
 * A loaded bundle, whatever runs it.
 *
 * All calls come from one background thread; only a [StopSignal] is requested from others.
 */
interface Engine {
    /** What of the loaded bundle this engine takes; empty before [initialize]. Readable from any thread. */
    val modalities: Set<Modality>

    /** Something that went otherwise than it should when the bundle was loaded. Readable from any thread. */
    val notice: Notice? get() = null

    /** Loads; may take seconds. Raises [EngineException]. */
    fun initialize(config: EngineConfig)

    /**
     * Answers the last of [turns], a user's, and returns when the answer has ended; [onPiece] gets its text as it comes.
     *
     * Ends soon after [stop] is requested, and runs nothing if that was before. Raises [EngineException] and [ContextFull].
     */
    fun run(turns: List<Turn>, sampling: Sampling, maxNewTokens: Int, stop: StopSignal, onPiece: (String) -> Unit): Answer

    /** Forgets what earlier runs left in the caches. */
    fun reset()

    /** Frees everything, whatever the library says to it; the engine may be initialized again. */
    fun cleanUp()
}

/** Makes the engine of a runtime. */
interface EngineFactory {
    /** The runtimes that this build of the app carries engines for. */
    val runtimes: Set<Runtime>

    /** Raises [EngineException] for a runtime that this build of the app does not carry. */
    fun create(runtime: Runtime): Engine

    /** The sizes of [manifest] at which the engine of [runtime] can run it; the first of a manifest is the whole model. */
    fun sizes(manifest: Manifest, runtime: Runtime): List<BundleSize> = manifest.sizes.take(1)
}
