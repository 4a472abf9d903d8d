package org.g3n.app

import org.g3n.core.bundle.Manifest
import org.g3n.core.bundle.Sampling
import org.g3n.core.chat.Turn
import org.g3n.core.engine.Answer
import org.g3n.core.engine.Engine
import org.g3n.core.engine.EngineConfig
import org.g3n.core.engine.EngineException
import org.g3n.core.engine.Finish
import org.pytorch.executorch.extension.llm.LlmCallback
import org.pytorch.executorch.extension.llm.LlmModule

/**
 * ExecuTorch's stock text runner, which takes the `.ptd` too.
 *
 * Of the sampling it knows only the temperature, and it reads the conversation anew at every turn.
 */
class LlmModuleEngine : Engine {
    private class Loaded(val module: LlmModule, val manifest: Manifest) {
        val template = manifest.chatTemplate()

        /** Pieces that end a turn; the runner hands them on like any other. */
        val stops = manifest.stopTexts
    }

    @Volatile
    private var loaded: Loaded? = null

    @Volatile
    private var stopRequested = false

    override fun initialize(config: EngineConfig) {
        cleanUp()
        config.requireNoSize()
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
            loaded = Loaded(module, bundle.manifest)
        } finally {
            if (loaded == null) module.close()
        }
    }

    override fun run(turns: List<Turn>, sampling: Sampling, maxNewTokens: Int, onPiece: (String) -> Unit): Answer {
        val it = loaded ?: throw EngineException("the engine is not initialized")
        if (turns.any { turn -> turn.attachments.isNotEmpty() }) {
            throw EngineException("this engine takes text only: use the LiteRT runtime for pictures and sound")
        }
        stopRequested = false
        val collector = Collector(it, maxNewTokens, onPiece)
        val temperature = sampling.temperature.toFloat()
        translated {
            it.module.resetContext()
            it.module.generate(it.template.render(turns), it.manifest.context, collector, false, temperature, 1, 0)
        }
        collector.failure?.let { reason -> throw EngineException(reason) }
        val finish = when {
            stopRequested -> Finish.STOPPED
            collector.pieces >= maxNewTokens -> Finish.LENGTH
            else -> Finish.END_OF_TURN
        }
        return Answer(finish, null, collector.pieces)
    }

    override fun stop() {
        stopRequested = true
        loaded?.module?.stop()
    }

    override fun reset() = Unit

    override fun cleanUp() {
        loaded?.module?.close()
        loaded = null
    }

    /** Passes pieces on until the turn or the limit ends. */
    private class Collector(
        private val loaded: Loaded,
        private val limit: Int,
        private val onPiece: (String) -> Unit,
    ) : LlmCallback {
        private var hasEnded = false
        var pieces = 0
        var failure: String? = null

        override fun onResult(result: String) {
            if (hasEnded) return
            hasEnded = result in loaded.stops
            if (!hasEnded) {
                pieces++
                onPiece(result)
            }
            if (hasEnded || pieces >= limit) {
                hasEnded = true
                loaded.module.stop()
            }
        }

        override fun onStats(stats: String) = Unit

        override fun onError(errorCode: Int, message: String) {
            failure = "ExecuTorch's runner failed with error $errorCode: $message"
        }
    }
}
