package org.g3n.core.ui

/** Kinds of background work that do not wait for each other; work of one kind is done in order. */
enum class Lane {
    /** Loading and inference: minutes. An engine takes one call at a time. */
    ENGINE,

    /** Copying and hashing bundles: minutes. */
    BUNDLES,

    /** Reading pictures, perhaps from a cloud: seconds. */
    MEDIA,

    /** Listing, reading and saving small files: milliseconds. */
    STORAGE,
}

/** Where work is done. Presenters are called, and call their views, on the main thread only. */
interface Threads {
    /** Runs [work] after what was given to this [lane] before, off the main thread. */
    fun background(lane: Lane, work: () -> Unit)

    /** Runs [work] on the main thread. */
    fun main(work: () -> Unit)
}

/** Tells the time in nanoseconds from some fixed moment. */
fun interface Clock {
    fun nanos(): Long
}
