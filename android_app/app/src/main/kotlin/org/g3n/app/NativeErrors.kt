package org.g3n.app

import org.g3n.core.engine.EngineException

/** Runs [call] into ExecuTorch: its own errors, and those of a library that does not load, become an [EngineException]. */
internal fun <T> translated(call: () -> T): T = try {
    call()
} catch (error: RuntimeException) {
    throw EngineException(error.message ?: "ExecuTorch failed", error)
} catch (error: LinkageError) {
    throw EngineException("ExecuTorch's library does not load: ${error.message}", error)
}

/** Runs [call], which frees something: where a library refuses, there is nothing that the app could do about it. */
internal fun quietly(call: () -> Unit) {
    try {
        call()
    } catch (_: RuntimeException) {
        // Freed as far as it goes.
    } catch (_: LinkageError) {
        // It was never loaded.
    }
}
