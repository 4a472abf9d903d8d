package org.g3n.core.ui

/** Counts pieces of an answer and times them. */
internal class Meter(private val clock: Clock) {
    private val start = clock.nanos()
    private var first = 0L
    private var last = 0L

    @Volatile
    var pieces = 0
        private set

    fun count() {
        last = clock.nanos()
        if (pieces++ == 0) first = last
    }

    fun stats(): Stats? {
        if (pieces == 0) return null
        val rate = if (pieces > 1 && last > first) (pieces - 1) / ((last - first) / NANOS) else null
        return Stats(pieces, (first - start) / NANOS, rate)
    }

    private companion object {
        const val NANOS = 1e9
    }
}
