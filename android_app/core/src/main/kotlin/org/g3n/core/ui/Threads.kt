package org.g3n.core.ui

/** Where work is done. Presenters are called, and call their views, on the main thread only. */
interface Threads {
    /** Runs [work] after what was given before it, off the main thread. */
    fun background(work: () -> Unit)

    /** Runs [work] on the main thread. */
    fun main(work: () -> Unit)
}

/** Tells the time in nanoseconds from some fixed moment. */
fun interface Clock {
    fun nanos(): Long
}
