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

/** Loads programs. */
fun interface ProgramLoader {
    /** The `.pte` at [path], whose weights may also lie in the `.ptd` at [dataPath]. Raises [EngineException]. */
    fun load(path: String, dataPath: String, threads: Int): Program
}
