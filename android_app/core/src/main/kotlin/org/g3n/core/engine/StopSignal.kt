package org.g3n.core.engine

/**
 * The Stop button of one run.
 *
 * A request counts whenever it comes: before the run has begun, while it waits for the engine, and while it speaks.
 */
class StopSignal {
    private var cancel: (() -> Unit)? = null

    @Volatile
    var isRequested: Boolean = false
        private set

    /** Ends the run soon; callable from any thread, any number of times. */
    @Synchronized
    fun request() {
        isRequested = true
        cancel?.invoke()
    }

    /**
     * Runs [body], during which a request calls [cancel], at once if it has come already.
     *
     * Both are under one lock: when this returns, no [cancel] is running and none will, so what it reaches can be closed.
     */
    fun <T> cancelling(cancel: () -> Unit, body: () -> T): T {
        synchronized(this) {
            this.cancel = cancel
            if (isRequested) cancel()
        }
        try {
            return body()
        } finally {
            synchronized(this) { this.cancel = null }
        }
    }
}
