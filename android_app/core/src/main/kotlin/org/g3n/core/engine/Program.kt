package org.g3n.core.engine

/** An ExecuTorch program, however it is called: through Android's `Module`, or through the host's native shim. */
interface Program : AutoCloseable {
    /** The integers that the constant method [name] returns, such as `get_max_seq_len`. */
    fun constants(name: String): LongArray

    /**
     * Runs [method] on [rows] `[1, tokens, width]` at [positions] `[tokens]` and returns the logits `[vocab]` after the
     * last token. Raises [EngineException].
     */
    fun logits(method: String, rows: FloatArray, positions: LongArray): FloatArray
}

/** Loads a program from a `.pte` with a number of threads. */
fun interface ProgramLoader {
    fun load(path: String, threads: Int): Program
}
