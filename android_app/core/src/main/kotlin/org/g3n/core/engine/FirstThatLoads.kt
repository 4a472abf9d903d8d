package org.g3n.core.engine

import org.g3n.core.bundle.Modality
import org.g3n.core.bundle.Sampling
import org.g3n.core.chat.Turn

/** Several ways to run the same bundle: the first of [engines] that loads it is used. */
class FirstThatLoads(private vararg val engines: Engine) : Engine {
    @Volatile
    private var chosen: Engine? = null

    override val modalities: Set<Modality> get() = chosen?.modalities.orEmpty()

    override val notice: Notice? get() = chosen?.notice

    override fun initialize(config: EngineConfig) {
        cleanUp()
        val refusals = ArrayList<EngineException>()
        for (engine in engines) {
            try {
                engine.initialize(config)
                chosen = engine
                return
            } catch (refusal: EngineException) {
                engine.cleanUp()
                refusals += refusal
            }
        }
        throw EngineException(refusals.joinToString("; ") { it.message.orEmpty() }, refusals.lastOrNull())
    }

    override fun run(
        turns: List<Turn>,
        sampling: Sampling,
        maxNewTokens: Int,
        stop: StopSignal,
        onPiece: (String) -> Unit,
    ): Answer {
        val engine = chosen ?: throw EngineException("the engine is not initialized")
        return engine.run(turns, sampling, maxNewTokens, stop, onPiece)
    }

    override fun reset() {
        chosen?.reset()
    }

    override fun cleanUp() {
        chosen?.cleanUp()
        chosen = null
    }
}
