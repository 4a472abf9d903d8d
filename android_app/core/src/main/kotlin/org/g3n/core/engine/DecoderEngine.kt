package org.g3n.core.engine

import org.g3n.core.bundle.Modality
import org.g3n.core.bundle.Sampling
import org.g3n.core.chat.ChatTemplate
import org.g3n.core.chat.Turn
import org.g3n.core.text.GemmaTokenizer
import org.g3n.core.text.PieceStream
import kotlin.math.sqrt

/**
 * Our own loop over an ExecuTorch program's `text_decoder`.
 *
 * Android's `LlmModule` cannot set top-k, top-p or a seed and reads a conversation anew at every turn. This loop keeps
 * the caches of what the conversation has in common with the last run, and reads embedding rows from flash.
 */
class DecoderEngine(private val loader: ProgramLoader) : Engine {
    @Volatile
    private var loaded: Loaded? = null
    private val cached = ArrayList<Int>()

    override val modalities: Set<Modality> get() = if (loaded == null) emptySet() else setOf(Modality.TEXT)

    override fun initialize(config: EngineConfig) {
        cleanUp()
        config.requireWhole()
        val bundle = config.bundle
        val tokenizer = GemmaTokenizer.load(bundle.file("tokenizer_json"))
        val tables = bundle.file("executorch_tables")
        val program = loader.load(bundle.file("executorch_model").path, tables.path, config.threads)
        try {
            loaded = Loaded(
                program,
                tokenizer,
                bundle.manifest.chatTemplate(),
                MappedTable(tables, program.constants("get_table_embed_tokens")),
                MappedTable(tables, program.constants("get_table_embed_tokens_per_layer")),
                program.constants("get_max_seq_len").single().toInt(),
                program.constants("get_max_context_len").single().toInt(),
                bundle.manifest.bosId,
                bundle.manifest.stopIds,
            )
        } finally {
            if (loaded == null) program.close()
        }
    }

    override fun run(turns: List<Turn>, sampling: Sampling, maxNewTokens: Int, stop: StopSignal, onPiece: (String) -> Unit): Answer {
        val it = loaded ?: throw EngineException("the engine is not initialized")
        if (turns.any { turn -> turn.attachments.isNotEmpty() }) {
            throw EngineException("this engine takes text only: use the LiteRT runtime for pictures and sound")
        }
        val prompt = intArrayOf(it.bosId) + it.tokenizer.encode(it.template.render(turns))
        if (prompt.size >= it.context) {
            throw ContextFull("the conversation has ${prompt.size} tokens, the bundle's context is ${it.context}: start anew")
        }
        var logits = prefill(it, prompt, stop) ?: return Answer(Finish.STOPPED, prompt.size, 0)
        val sampler = Sampler(sampling)
        val text = PieceStream(it.tokenizer, onPiece)
        var drawn = 0
        while (true) {
            val token = sampler.draw(logits)
            if (token in it.stopIds) return finish(text, Finish.END_OF_TURN, prompt.size, drawn)
            text.feed(token)
            drawn++
            if (stop.isRequested) return finish(text, Finish.STOPPED, prompt.size, drawn)
            if (drawn >= maxNewTokens) return finish(text, Finish.LENGTH, prompt.size, drawn)
            if (cached.size >= it.context) return finish(text, Finish.CONTEXT_FULL, prompt.size, drawn)
            logits = step(it, intArrayOf(token))
        }
    }

    override fun reset() = cached.clear()

    override fun cleanUp() {
        reset()
        loaded?.close()
        loaded = null
    }

    /** Logits after [prompt], or `null` when stopped on the way. Positions that the caches already hold are kept. */
    private fun prefill(it: Loaded, prompt: IntArray, stop: StopSignal): FloatArray? {
        var common = 0
        while (common < minOf(cached.size, prompt.size - 1) && cached[common] == prompt[common]) common++
        // A ring of a sliding layer has lost the positions before the cut, so a cut conversation is read from its start.
        if (common < cached.size) common = 0
        while (cached.size > common) cached.removeAt(cached.size - 1)
        var logits: FloatArray? = null
        var begin = common
        while (begin < prompt.size) {
            if (stop.isRequested) return null
            val end = minOf(begin + it.chunk, prompt.size)
            logits = step(it, prompt.copyOfRange(begin, end))
            begin = end
        }
        return logits
    }

    private fun step(it: Loaded, ids: IntArray): FloatArray {
        val rows = it.rows(ids)
        val positions = LongArray(ids.size) { i -> (cached.size + i).toLong() }
        val logits = it.program.logits(METHOD, rows, positions)
        for (id in ids) cached.add(id)
        return logits
    }

    private fun finish(text: PieceStream, finish: Finish, promptTokens: Int, drawn: Int): Answer {
        text.end()
        return Answer(finish, promptTokens, drawn)
    }

    private class Loaded(
        val program: Program,
        val tokenizer: GemmaTokenizer,
        val template: ChatTemplate,
        val tokens: MappedTable,
        val perLayer: MappedTable,
        val chunk: Int,
        val context: Int,
        val bosId: Int,
        val stopIds: Set<Int>,
    ) : AutoCloseable {
        private val width = tokens.width + perLayer.width
        private val scale = sqrt(tokens.width.toFloat())

        /** Scaled token embeddings and per-layer embeddings side by side: `[1, ids, width]`. */
        fun rows(ids: IntArray): FloatArray {
            val out = FloatArray(ids.size * width)
            for ((i, id) in ids.withIndex()) {
                tokens.readRow(id, scale, out, i * width)
                perLayer.readRow(id, 1f, out, i * width + tokens.width)
            }
            return out
        }

        override fun close() {
            program.close()
            tokens.close()
            perLayer.close()
        }
    }

    companion object {
        /** The method that takes embedding rows and gives logits. */
        const val METHOD = "text_decoder"
    }
}
