package org.g3n.host

import org.g3n.core.engine.EngineException
import org.g3n.core.engine.Program

/** An ExecuTorch program on the host's JVM. */
class HostProgram(path: String, dataPath: String, threads: Int) : Program {
    private var handle = translated { NativeProgram.open(path, dataPath, threads) }

    override fun constants(name: String): LongArray = translated { NativeProgram.constants(handle, name) }

    override fun logits(method: String, rows: FloatArray, positions: LongArray): FloatArray =
        translated { NativeProgram.logits(handle, method, rows, positions) }

    override fun close() {
        if (handle != 0L) NativeProgram.close(handle)
        handle = 0L
    }
}

/** Runs [call] into a native library; what it throws becomes an [EngineException]. */
internal fun <T> translated(call: () -> T): T = try {
    call()
} catch (error: RuntimeException) {
    throw EngineException(error.message ?: "the native library failed", error)
}
