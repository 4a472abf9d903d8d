package org.g3n.core.text

import java.util.PriorityQueue

/**
 * The merges of a BPE model: which two ids become which third, and in what order.
 *
 * Half a million pairs lie in one open-addressed table of primitives, a fifth of what a map of boxed values takes.
 */
internal class MergeRanks private constructor(capacity: Int) {
    private val keys = LongArray(capacity) { EMPTY }
    private val ranks = IntArray(capacity)
    private val results = IntArray(capacity)

    /** [symbols] with all merges done, each time the pair that ranks lowest and, among equals, stands first. */
    fun merge(symbols: IntList): IntList {
        val count = symbols.size
        val ids = symbols.toArray()
        val next = IntArray(count) { it + 1 }
        val previous = IntArray(count) { it - 1 }
        val alive = BooleanArray(count) { true }
        val queue = PriorityQueue<Candidate>()

        fun offer(left: Int) {
            val right = if (left < 0) count else next[left]
            if (right >= count) return
            val slot = slot(pair(ids[left], ids[right]))
            if (keys[slot] != EMPTY) queue.add(Candidate(ranks[slot], left, ids[left], ids[right], results[slot]))
        }

        for (i in 0 until count) offer(i)
        while (true) {
            val best = queue.poll() ?: break
            val left = best.position
            if (!alive[left] || ids[left] != best.left) continue
            val right = next[left]
            if (right >= count || ids[right] != best.right) continue
            ids[left] = best.result
            alive[right] = false
            next[left] = next[right]
            if (next[right] < count) previous[next[right]] = left
            offer(left)
            offer(previous[left])
        }
        val out = IntList()
        for (i in 0 until count) if (alive[i]) out.add(ids[i])
        return out
    }

    private fun put(left: Int, right: Int, rank: Int, result: Int) {
        val slot = slot(pair(left, right))
        if (keys[slot] != EMPTY) return
        keys[slot] = pair(left, right)
        ranks[slot] = rank
        results[slot] = result
    }

    /** Where [key] is, or the empty place where it would be. */
    private fun slot(key: Long): Int {
        val mask = keys.size - 1
        var at = (key * MULTIPLIER ushr HASH_SHIFT).toInt() and mask
        while (keys[at] != EMPTY && keys[at] != key) at = at + 1 and mask
        return at
    }

    private data class Candidate(val rank: Int, val position: Int, val left: Int, val right: Int, val result: Int) :
        Comparable<Candidate> {
        override fun compareTo(other: Candidate): Int =
            if (rank != other.rank) rank.compareTo(other.rank) else position.compareTo(other.position)
    }

    companion object {
        private const val EMPTY = -1L
        private const val MULTIPLIER = -0x61c8864680b583ebL
        private const val HASH_SHIFT = 20

        /** [pairs] holds left and right of each merge in rank order; ones whose parts are no tokens are left out. */
        fun of(ids: Map<String, Int>, pairs: List<String>): MergeRanks {
            val out = MergeRanks(Integer.highestOneBit(maxOf(1, pairs.size)) * 2)
            for (rank in 0 until pairs.size / 2) {
                val (left, right) = pairs[2 * rank] to pairs[2 * rank + 1]
                val result = ids[left + right] ?: error("the merge of $left and $right is no token")
                out.put(ids[left] ?: error("$left is no token"), ids[right] ?: error("$right is no token"), rank, result)
            }
            return out
        }

        private fun pair(left: Int, right: Int): Long = left.toLong() shl Int.SIZE_BITS or right.toLong()
    }
}
