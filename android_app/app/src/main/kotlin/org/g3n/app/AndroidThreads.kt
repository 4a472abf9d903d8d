package org.g3n.app

import android.os.Handler
import android.os.Looper
import org.g3n.core.ui.Lane
import org.g3n.core.ui.Threads
import java.util.concurrent.Executors

/** The main looper, and a background thread for each lane. */
class AndroidThreads : Threads {
    private val workers = Lane.entries.associateWith { lane ->
        Executors.newSingleThreadExecutor { Thread(it, "g3n-${lane.name.lowercase()}") }
    }
    private val handler = Handler(Looper.getMainLooper())

    override fun background(lane: Lane, work: () -> Unit) = workers.getValue(lane).execute(work)

    override fun main(work: () -> Unit) {
        handler.post(work)
    }
}
