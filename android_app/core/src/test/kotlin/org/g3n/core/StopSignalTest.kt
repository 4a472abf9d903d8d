package org.g3n.core

import org.g3n.core.engine.StopSignal
import org.junit.Test
import java.util.concurrent.CountDownLatch
import java.util.concurrent.TimeUnit
import kotlin.concurrent.thread
import kotlin.test.assertEquals
import kotlin.test.assertFalse
import kotlin.test.assertTrue

class StopSignalTest {
    @Test
    fun `a request before the run cancels it at once`() {
        val stop = StopSignal()
        stop.request()
        var cancels = 0
        stop.cancelling({ cancels++ }) { assertEquals(1, cancels) }
        stop.request()
        assertEquals(1, cancels, "what was cancelled may be closed by now")
    }

    @Test
    fun `a run does not end while its cancel is under way`() {
        val stop = StopSignal()
        val begun = CountDownLatch(1)
        val cancelling = CountDownLatch(1)
        val mayEnd = CountDownLatch(1)
        var isClosed = false
        val run = thread {
            stop.cancelling({
                cancelling.countDown()
                mayEnd.await()
            }) { begun.countDown() }
            isClosed = true
        }
        val request = thread(start = false) { stop.request() }
        // Whichever comes first, the other waits for it.
        begun.await()
        request.start()
        if (cancelling.await(200, TimeUnit.MILLISECONDS)) assertFalse(isClosed)
        mayEnd.countDown()
        listOf(run, request).forEach { it.join(5000) }
        assertTrue(isClosed && stop.isRequested)
    }
}
