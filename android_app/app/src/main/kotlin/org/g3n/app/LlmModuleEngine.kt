package org.g3n.app

import org.g3n.core.bundle.Manifest
import org.g3n.core.bundle.Modality
import org.g3n.core.bundle.Sampling
import org.g3n.core.chat.Turn
import org.g3n.core.engine.Answer
import org.g3n.core.engine.ContextFull
import org.g3n.core.engine.Engine
import org.g3n.core.engine.EngineConfig
import org.g3n.core.engine.EngineException
import org.g3n.core.engine.Finish
import org.g3n.core.engine.StopSignal
import org.g3n.core.engine.requireNoNul
import org.g3n.core.text.GemmaTokenizer
import org.pytorch.executorch.extension.llm.LlmCallback
import org.pytorch.executorch.extension.llm.LlmModule

/**
 * ExecuTorch's stock text runner, which takes the `.ptd` too.
 *
 * Of the sampling it knows only the temperature, and it reads the conversation anew at every turn.
 */
class LlmModuleEngine : Engine {
    private class Loaded(val module: LlmModule, val manifest: Manifest, val tokenizer: GemmaTokenizer) {
        val template = manifest.chatTemplate()

        /** Pieces that end a turn; the runner hands them on like any other. */
        val stops = manifest.stopTexts
    }

    @Volatile
    private var loaded: Loaded? = null

    override val modalities: Set<Modality> get() = if (loaded == null) emptySet() else setOf(Modality.TEXT)

    override fun initialize(config: EngineConfig) {
        cleanUp()
        config.requireWhole()
        val bundle = config.bundle
        val tables = listOf(bundle.file("executorch_tables").path)
        val module = translated {
            LlmModule(
                LlmModule.MODEL_TYPE_TEXT,
                bundle.file("executorch_model").path,
                bundle.file("tokenizer_json").path,
                bundle.manifest.sampling.temperature.toFloat(),
                tables,
                1,
                0,
            )
        }
        try {
            translated { module.load() }
            loaded = Loaded(module, bundle.manifest, GemmaTokenizer.load(bundle.file("tokenizer_json")))
        } finally {
            if (loaded == null) quietly { module.close() }
        }
    }

    override fun run(
        turns: List<Turn>,
        sampling: Sampling,
        maxNewTokens: Int,
        stop: StopSignal,
        onPiece: (String) -> Unit,
    ): Answer {
        val it = loaded ?: throw EngineException("the engine is not initialized")
        if (turns.any { turn -> turn.attachments.isNotEmpty() }) {
            throw EngineException("this engine takes text only: use the LiteRT runtime for pictures and sound")
        }
        turns.forEach { turn -> requireNoNul(turn.text) }
        val context = it.manifest.context
        val prompt = it.template.render(turns)
        val promptTokens = it.tokenizer.encode(prompt).size + 1
        if (promptTokens >= context) {
            throw ContextFull("the conversation has $promptTokens tokens, the bundle's context is $context: start anew")
        }
        if (stop.isRequested) return Answer(Finish.STOPPED, promptTokens, 0)
        // The last token that is drawn takes no place.
        val collector = Collector(it, maxNewTokens, context - promptTokens + 1, stop, onPiece)
        val temperature = sampling.temperature.toFloat()
        stop.cancelling({ it.module.stop() }) {
            translated {
                it.module.resetContext()
                it.module.generate(prompt, context, collector, false, temperature, 1, 0)
            }
        }
        collector.failure?.let { reason -> throw EngineException(reason) }
        val finish = when {
            collector.hasModelEnded -> Finish.END_OF_TURN
            stop.isRequested -> Finish.STOPPED
            collector.pieces >= maxNewTokens -> Finish.LENGTH
            else -> Finish.CONTEXT_FULL
        }
        return Answer(finish, promptTokens, collector.pieces)
    }

    override fun reset() = Unit

    override fun cleanUp() {
        loaded?.module?.let { quietly { it.close() } }
        loaded = null
    }

    /**
     * Passes pieces on until the turn ends, the limit is reached, or the context is full.
     *
     * The runner of ExecuTorch 1.5 would run beyond the context and fail there.
     *
     * @param room tokens that the context has room for.
     */
    private class Collector(
        private val loaded: Loaded,
        private val limit: Int,
        private val room: Int,
        private val stop: StopSignal,
        private val onPiece: (String) -> Unit,
    ) : LlmCallback {
        private var hasEnded = false
        private var tokens = 0
        var hasModelEnded = false
            private set
        var pieces = 0
            private set
        var failure: String? = null
            private set

        override fun onResult(result: String) {
            if (hasEnded) return
            hasModelEnded = result in loaded.stops
            if (!hasModelEnded) {
                pieces++
                // A character that is spelled by several byte tokens comes as one piece.
                tokens += loaded.tokenizer.encode(result).size
                onPiece(result)
            }
            // The runner forgets a stop that comes before it begins: it is told again.
            hasEnded = hasModelEnded || pieces >= limit || tokens >= room || stop.isRequested
            if (hasEnded) loaded.module.stop()
        }

        override fun onStats(stats: String) = Unit

        override fun onError(errorCode: Int, message: String) {
            failure = "ExecuTorch's runner failed with error $errorCode: $message"
        }
    }
}
