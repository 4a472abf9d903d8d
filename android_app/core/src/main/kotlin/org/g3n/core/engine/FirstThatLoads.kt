package org.g3n.core.engine

import org.g3n.core.bundle.Sampling
import org.g3n.core.chat.Turn

/** Several ways to run the same bundle: the first of [engines] that loads it is used. */
class FirstThatLoads(private vararg val engines: Engine) : Engine {
    @Volatile
    private var chosen: Engine? = null

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

    override fun run(turns: List<Turn>, sampling: Sampling, maxNewTokens: Int, onPiece: (String) -> Unit): Answer =
        (chosen ?: throw EngineException("the engine is not initialized")).run(turns, sampling, maxNewTokens, onPiece)

    override fun stop() {
        chosen?.stop()
    }

    override fun reset() {
        chosen?.reset()
    }

    override fun cleanUp() {
        chosen?.cleanUp()
        chosen = null
    }
}
