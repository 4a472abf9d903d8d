package org.g3n.core.device

import org.g3n.core.bundle.Manifest
import org.g3n.core.bundle.Runtime

/** Chooses how much context to make room for when a bundle is loaded: LiteRT-LM shortens the caches then. */
object ContextPolicy {
    /**
     * Tokens of context for [manifest] in [runtime]: all that it has where [memory] holds them, else the most that fit,
     * but no fewer than a conversation needs.
     */
    fun preferred(manifest: Manifest, runtime: Runtime, memory: DeviceMemory): Int {
        val own = manifest.context
        if (runtime != Runtime.LITERT || !manifest.canBeShortened || own <= LEAST) return own
        val usable = FitCheck.usable(memory)
        val chunk = manifest.longestPrefill
        val shorter = (own / chunk downTo 1).map { it * chunk }.filter { it in LEAST..own }
        val peak = manifest.ledger(runtime).peak
        return (listOf(own) + shorter).firstOrNull { peak - saved(manifest, it) <= usable } ?: shorter.lastOrNull() ?: own
    }

    /** Bytes that the caches of [context] tokens take less than those of the whole. */
    fun saved(manifest: Manifest, context: Int): Long = manifest.fullCacheBytes / manifest.context * (manifest.context - context)

    /** Fewer tokens are no conversation. */
    private const val LEAST = 1024
}
