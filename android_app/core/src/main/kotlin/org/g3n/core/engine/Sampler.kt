package org.g3n.core.engine

import org.g3n.core.bundle.Sampling
import kotlin.math.exp
import kotlin.random.Random

/** Draws a token from logits: temperature, then the [Sampling.topK] best, then the best that make up [Sampling.topP]. */
class Sampler(private val sampling: Sampling) {
    private val random = Random(sampling.seed)

    /** An index into [logits] `[vocab]`. */
    fun draw(logits: FloatArray): Int {
        if (sampling.temperature == 0.0 || sampling.topK == 1) return best(logits)
        val order = largest(logits, minOf(sampling.topK, logits.size))
        val top = logits[order[0]]
        val weights = DoubleArray(order.size) { exp((logits[order[it]] - top) / sampling.temperature) }
        val total = weights.sum()
        var kept = 0
        var mass = 0.0
        while (kept < order.size && (kept == 0 || mass < sampling.topP * total)) mass += weights[kept++]
        var rest = random.nextDouble() * mass
        for (i in 0 until kept) {
            rest -= weights[i]
            if (rest < 0) return order[i]
        }
        return order[kept - 1]
    }

    private fun best(logits: FloatArray): Int {
        var best = 0
        for (i in logits.indices) if (logits[i] > logits[best]) best = i
        return best
    }

    /** Indices of the [count] largest, largest first; among equals the first wins. */
    private fun largest(logits: FloatArray, count: Int): IntArray {
        // Kept in falling order; most logits fail the first comparison.
        val kept = IntArray(count)
        var size = 0
        for (i in logits.indices) {
            if (size == count && logits[i] <= logits[kept[size - 1]]) continue
            var at = if (size < count) size++ else count - 1
            while (at > 0 && logits[kept[at - 1]] < logits[i]) {
                kept[at] = kept[at - 1]
                at--
            }
            kept[at] = i
        }
        return kept
    }
}
