package org.g3n.app

import com.google.ai.edge.litertlm.Backend
import com.google.ai.edge.litertlm.Content
import com.google.ai.edge.litertlm.Contents
import com.google.ai.edge.litertlm.Conversation
import com.google.ai.edge.litertlm.ConversationConfig
import com.google.ai.edge.litertlm.Message
import com.google.ai.edge.litertlm.MessageCallback
import com.google.ai.edge.litertlm.SamplerConfig
import org.g3n.core.bundle.Device
import org.g3n.core.bundle.Modality
import org.g3n.core.bundle.Sampling
import org.g3n.core.chat.Attachment
import org.g3n.core.chat.Role
import org.g3n.core.chat.Turn
import org.g3n.core.engine.Answer
import org.g3n.core.engine.ContextFull
import org.g3n.core.engine.Engine
import org.g3n.core.engine.EngineConfig
import org.g3n.core.engine.EngineException
import org.g3n.core.engine.Finish
import org.g3n.core.engine.StopSignal
import org.g3n.core.engine.requireNoNul
import java.util.concurrent.BlockingQueue
import java.util.concurrent.LinkedBlockingQueue
import com.google.ai.edge.litertlm.Engine as LiteRtLm
import com.google.ai.edge.litertlm.EngineConfig as LiteRtLmConfig

/**
 * LiteRT-LM's Android library.
 *
 * Every run makes a conversation of its own and reads it anew: the library can keep a conversation's caches, but answers
 * the next turn otherwise then (`docs/upstream/litert-lm-second-turn.md`). Its API takes sound as a whole, so recordings
 * are encoded when sent.
 */
class LiteRtLmEngine : Engine {
    private var engine: LiteRtLm? = null
    private var context = 0

    @Volatile
    override var modalities: Set<Modality> = emptySet()
        private set

    override fun initialize(config: EngineConfig) {
        cleanUp()
        config.requireWhole()
        val manifest = config.bundle.manifest
        val tokens = manifest.wholeChunks(config.context)
        val backend = if (config.device == Device.CPU) Backend.CPU(config.threads) else Backend.GPU()
        val made = translatedErrors {
            LiteRtLm(
                LiteRtLmConfig(
                    modelPath = config.bundle.file("litertlm").path,
                    backend = backend,
                    visionBackend = backend.takeIf { Modality.VISION in manifest.modalities },
                    // The audio encoder has operators that the GPU does not take.
                    audioBackend = Backend.CPU(config.threads).takeIf { Modality.AUDIO in manifest.modalities },
                    maxNumTokens = tokens,
                    // On a GPU the engine reads int4 weights back from its cache as garbage (docs/upstream). Where no folder
                    // is named, it would keep a cache beside the bundle.
                    cacheDir = config.cacheDirectory?.path?.takeIf { config.device == Device.CPU } ?: NO_CACHE,
                ),
            )
        }
        engine = made
        context = tokens
        translatedErrors { made.initialize() }
        modalities = manifest.modalities
        // Without OpenCL a GPU is found missing, and a broken one broken, only when the first token is drawn.
        if (config.device == Device.ACCELERATOR) run(listOf(Turn(Role.USER, "Hi")), Sampling.GREEDY, 1, StopSignal()) {}
    }

    override fun run(
        turns: List<Turn>,
        sampling: Sampling,
        maxNewTokens: Int,
        stop: StopSignal,
        onPiece: (String) -> Unit,
    ): Answer {
        val loaded = engine ?: throw EngineException("the engine is not initialized")
        turns.forEach { requireNoNul(it.text) }
        if (stop.isRequested) return Answer(Finish.STOPPED, null, 0)
        val topK = if (sampling.temperature == 0.0) 1 else sampling.topK
        val config = ConversationConfig(
            initialMessages = turns.dropLast(1).map(::message),
            samplerConfig = SamplerConfig(topK, sampling.topP, sampling.temperature, sampling.seed),
            maxOutputToken = maxNewTokens,
        )
        val conversation = translatedErrors { loaded.createConversation(config) }
        try {
            val events = LinkedBlockingQueue<Event>()
            translatedErrors { conversation.sendMessageAsync(message(turns.last()), Forwarding(events)) }
            val answer = stop.cancelling({ quietly { conversation.cancelProcess() } }) { answer(events, maxNewTokens, stop, onPiece) }
            val isFull = answer.finish == Finish.END_OF_TURN && tokens(conversation) >= context - 1
            return if (isFull) answer.copy(finish = Finish.CONTEXT_FULL) else answer
        } finally {
            quietly { conversation.close() }
        }
    }

    private fun answer(events: BlockingQueue<Event>, maxNewTokens: Int, stop: StopSignal, onPiece: (String) -> Unit): Answer {
        var pieces = 0
        while (true) {
            when (val event = events.take()) {
                is Event.Piece -> if (event.text.isNotEmpty()) {
                    pieces++
                    onPiece(event.text)
                }
                is Event.Failure -> {
                    if (stop.isRequested) return Answer(Finish.STOPPED, null, pieces)
                    throw failure(event.error)
                }
                Event.Done -> {
                    val finish = when {
                        stop.isRequested -> Finish.STOPPED
                        pieces >= maxNewTokens -> Finish.LENGTH
                        else -> Finish.END_OF_TURN
                    }
                    return Answer(finish, null, pieces)
                }
            }
        }
    }

    /** The engine ends an answer at the end of the context as if the model had ended it. */
    private fun tokens(conversation: Conversation): Int = try {
        conversation.getTokenCount()
    } catch (_: RuntimeException) {
        UNKNOWN
    } catch (_: LinkageError) {
        UNKNOWN
    }

    private fun failure(error: Throwable): Exception {
        val message = error.message ?: "LiteRT-LM failed"
        val (asked, held) = TOO_LONG.find(message)?.destructured ?: return EngineException(message, error)
        return ContextFull("the conversation has $asked tokens, the bundle's context is $held: start anew")
    }

    override fun reset() = Unit

    override fun cleanUp() {
        engine?.let { quietly { if (it.isInitialized()) it.close() } }
        engine = null
        modalities = emptySet()
    }

    private fun message(turn: Turn): Message {
        val contents = turn.attachments.map { attachment ->
            when (attachment.kind) {
                Attachment.Kind.IMAGE -> Content.ImageFile(attachment.path)
                Attachment.Kind.SOUND -> Content.AudioFile(attachment.path)
            }
        } + Content.Text(turn.text)
        return when (turn.role) {
            Role.SYSTEM -> Message.system(Contents.of(contents))
            Role.USER -> Message.user(Contents.of(contents))
            Role.MODEL -> Message.model(Contents.of(contents))
        }
    }

    private sealed class Event {
        class Piece(val text: String) : Event()

        class Failure(val error: Throwable) : Event()

        object Done : Event()
    }

    /** Hands over from the library's thread to the one that waits. */
    private class Forwarding(private val events: LinkedBlockingQueue<Event>) : MessageCallback {
        override fun onMessage(message: Message) {
            events.put(Event.Piece(message.toString()))
        }

        override fun onDone() {
            events.put(Event.Done)
        }

        override fun onError(throwable: Throwable) {
            events.put(Event.Failure(throwable))
        }
    }

    private companion object {
        const val NO_CACHE = ":nocache"
        const val UNKNOWN = -1

        /** How the engine says that a prompt does not fit, such as "tokens allowed: 523 >= 512". */
        val TOO_LONG = Regex("tokens allowed: (\\d+) >= (\\d+)")

        fun <T> translatedErrors(call: () -> T): T = try {
            call()
        } catch (error: RuntimeException) {
            throw EngineException(error.message ?: "LiteRT-LM failed", error)
        } catch (error: LinkageError) {
            throw EngineException("LiteRT-LM's library does not load: ${error.message}", error)
        }
    }
}
