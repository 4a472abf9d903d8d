package org.g3n.core

import org.g3n.core.bundle.Device
import org.g3n.core.bundle.NotABundle
import org.g3n.core.bundle.Runtime
import org.g3n.core.ui.Busy
import org.g3n.core.ui.Choice
import org.junit.Test
import kotlin.test.assertEquals
import kotlin.test.assertIs
import kotlin.test.assertNotNull
import kotlin.test.assertNull
import kotlin.test.assertTrue

/** Screens come and go: what was prepared, is going on or was asked stays. */
class LoadTurnedTest : LoadPresenterTests() {
    @Test
    fun `a view that is gone is not called`() {
        val presenter = presenter()
        presenter.open(bundle())
        presenter.detach()
        threads.run()
        assertTrue(view.options.isEmpty())
        assertNotNull(presenter.bundle)
    }

    @Test
    fun `a turned or later screen is shown all of it`() {
        val presenter = presenter(FakeEngine(refuses = setOf(Device.ACCELERATOR)))
        presenter.check(bundle(accelerated = true))
        val chosen = Choice(Runtime.EXECUTORCH, Device.CPU, null)
        presenter.choose(chosen)
        presenter.detach()
        val turned = LoadScreen()
        presenter.attach(turned)
        assertEquals(view.options, turned.options)
        assertEquals(chosen, turned.prepared?.choice)
        presenter.load(Runtime.LITERT, Device.ACCELERATOR)
        presenter.detach()
        LoadScreen().also { presenter.attach(it) }.also { assertEquals(Busy.Loading(Runtime.LITERT, Device.ACCELERATOR), it.busy) }
        presenter.detach()
        threads.run()
        val late = LoadScreen()
        presenter.attach(late)
        assertNull(late.busy)
        assertEquals("no OpenCL library on this device", late.cpuOffer)
        presenter.detach()
        presenter.attach(LoadScreen().also { presenter.answerOffer(useCpu = false) }.also { assertNull(it.cpuOffer) })
    }

    @Test
    fun `a check that gives way to loading does not say that nothing is going on`() {
        val presenter = presenter(FakeEngine(refuses = setOf(Device.ACCELERATOR)), FakeEngine())
        presenter.check(bundle(accelerated = true))
        presenter.load(Runtime.LITERT, Device.ACCELERATOR)
        threads.run()
        view.onChecking = {
            view.onChecking = {}
            presenter.answerOffer(useCpu = true)
            assertNull(view.busy as? Busy.Loading, "the offer went when the check began")
        }
        presenter.open(bundle("other"))
        threads.run()
        assertEquals("other", view.prepared?.bundle?.directory?.name)
    }

    @Test
    fun `a chat that was loaded in the background opens once`() {
        val presenter = presenter(FakeEngine())
        presenter.check(bundle())
        presenter.load()
        presenter.detach()
        threads.run()
        assertEquals(0, view.chatsOpened)
        repeat(2) { presenter.attach(view) }
        assertEquals(1, view.chatsOpened)
    }

    @Test
    fun `an error is shown until it was seen`() {
        val presenter = presenter()
        presenter.check(temporary.newFolder("empty"))
        val turned = LoadScreen()
        presenter.attach(turned)
        assertIs<NotABundle>(turned.error)
        presenter.errorSeen()
        presenter.attach(LoadScreen().also { assertNull(it.error) })
    }
}
