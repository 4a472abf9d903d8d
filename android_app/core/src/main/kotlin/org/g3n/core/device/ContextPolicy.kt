package org.g3n.core.device

import org.g3n.core.bundle.Manifest
import org.g3n.core.bundle.Runtime

/** Chooses how much context to make room for when a bundle is loaded: LiteRT-LM shortens the caches then. */
object ContextPolicy {
    /**
     * Tokens of context for [manifest] in [runtime]: all that it has where [memory] holds them, else the most that fit.
     *
     * Where nothing fits, as few as a conversation needs, if that frees a tenth of the memory at least.
     */
    fun preferred(manifest: Manifest, runtime: Runtime, memory: DeviceMemory): Int {
        val own = manifest.context
        if (runtime != Runtime.LITERT || !manifest.canBeShortened || own <= LEAST) return own
        val usable = FitCheck.usable(memory)
        val chunk = manifest.longestPrefill
        val shorter = (own / chunk downTo 1).map { it * chunk }.filter { it in LEAST..own }
        val peak = manifest.ledger(runtime).peak
        val least = shorter.lastOrNull()?.takeIf { saved(manifest, it) >= peak / WORTH } ?: own
        return (listOf(own) + shorter).firstOrNull { peak - saved(manifest, it) <= usable } ?: least
    }

    /** Bytes that the caches of [context] tokens take less than those of the whole. */
    fun saved(manifest: Manifest, context: Int): Long = manifest.fullCacheBytes / manifest.context * (manifest.context - context)

    /** Fewer tokens are no conversation. */
    private const val LEAST = 1024

    /** What frees less than this part of the peak does not make up for a shorter conversation. */
    private const val WORTH = 10
}
