package org.g3n.core

import org.g3n.core.bundle.Device
import org.g3n.core.bundle.ManifestReader
import org.g3n.core.bundle.Runtime
import org.g3n.core.device.DeviceMemory
import org.g3n.core.device.Verdict
import org.g3n.core.engine.EngineException
import org.g3n.core.ui.Lane
import org.junit.Test
import java.io.File
import kotlin.test.assertEquals
import kotlin.test.assertFailsWith
import kotlin.test.assertIs
import kotlin.test.assertNotNull
import kotlin.test.assertNull
import kotlin.test.assertTrue

/** A checked bundle is judged by its size, and loaded. */
class LoadEnginesTest : LoadPresenterTests() {
    @Test
    fun `a bundle is checked judged and loaded`() {
        val engine = FakeEngine()
        val presenter = presenter(engine)
        presenter.check(bundle())
        assertTrue(view.checking.first().percent == 0 && view.checking.last().percent == 100)
        assertEquals(listOf(Runtime.LITERT, Runtime.EXECUTORCH), view.options.map { it.runtime })
        assertEquals(Verdict.FITS, view.options.first().fit.verdict)
        assertEquals(listOf(Device.CPU), view.options.first().devices)
        assertNull(loaded)
        presenter.load(Runtime.LITERT, Device.CPU)
        threads.run()
        assertEquals(Runtime.LITERT, loaded?.runtime)
        assertEquals(4, engine.config?.threads)
        assertEquals(1, view.chatsOpened)
        assertTrue(view.canResume)
        assertNotNull(presenter.chat)
        presenter.release()
        threads.run()
        assertEquals(1, engine.cleanUps)
        assertNull(presenter.chat)
        assertTrue(!view.canResume)
    }

    @Test
    fun `the conversation that was kept is read away from the screen's thread and after the engine is loaded`() {
        val presenter = presenter(FakeEngine())
        presenter.check(bundle())
        presenter.load()
        threads.run(Lane.ENGINE)
        assertEquals(0, store.loads)
        threads.run(Lane.STORAGE)
        assertEquals(1, store.loads)
        assertNotNull(presenter.chat)
    }

    @Test
    fun `loading anew frees the engine before`() {
        val first = FakeEngine()
        val presenter = presenter(first, FakeEngine())
        presenter.check(bundle())
        presenter.load(Runtime.LITERT, Device.CPU)
        threads.run()
        presenter.load(Runtime.EXECUTORCH, Device.CPU)
        threads.run()
        assertEquals(1, first.cleanUps)
        assertEquals(Runtime.EXECUTORCH, loaded?.runtime)
    }

    @Test
    fun `too little memory is said before loading`() {
        memory = DeviceMemory(900L shl 20, 500L shl 20, 100L shl 20)
        presenter().check(bundle())
        assertEquals(setOf(Verdict.TOO_SMALL), view.options.map { it.fit.verdict }.toSet())
        assertNull(loaded)
    }

    @Test
    fun `an accelerator that refuses offers the CPU`() {
        val presenter = presenter(FakeEngine(refuses = setOf(Device.ACCELERATOR)), FakeEngine())
        presenter.check(bundle(accelerated = true))
        assertEquals(listOf(Device.ACCELERATOR, Device.CPU), view.options.first().devices)
        presenter.load(Runtime.LITERT, Device.ACCELERATOR)
        threads.run()
        assertEquals("no OpenCL library on this device", view.cpuOffer)
        assertNull(loaded)
        assertNull(view.error)
        presenter.answerOffer(useCpu = true)
        threads.run()
        assertEquals(Device.CPU, loaded?.device)
    }

    @Test
    fun `an engine that fails on the CPU is an error`() {
        val presenter = presenter(FakeEngine(refuses = setOf(Device.CPU)))
        presenter.check(bundle())
        presenter.load(Runtime.LITERT, Device.CPU)
        threads.run()
        assertIs<EngineException>(view.error)
        assertNull(view.cpuOffer)
        assertNull(presenter.chat)
        assertNull(view.busy)
        assertNotNull(view.prepared, "it can be loaded otherwise without being checked again")
    }

    @Test
    fun `an elastic bundle is loaded whole and offers no size that no engine runs`() {
        val engine = FakeEngine()
        val presenter = presenter(engine)
        val elastic = BundleMaker(File(temporary.root, "elastic")).make { manifest ->
            val size = mapOf(
                "parameters" to 9L, "layers" to listOf(0L), "ffn_dims" to listOf(8L), "core_bytes" to 9L,
                "peak" to mapOf("load" to 9L, "prefill" to 9L, "decode" to 9L), "least_device_ram" to 9L,
                "signatures" to listOf("decode"), "delegation" to null, "parity" to null,
            )
            manifest["sizes"] = listOf("e4b", "e2b").map { size + ("name" to it) }
        }
        presenter.check(elastic)
        assertEquals(listOf(listOf("e4b"), listOf("e4b")), view.options.map { option -> option.sizes.map { it.name } })
        presenter.load()
        threads.run()
        assertNull(engine.config?.size)
        engine.config!!.requireWhole()
        assertFailsWith<EngineException> { engine.config!!.copy(size = "e2b").requireWhole() }
    }

    @Test
    fun `where memory is short the engine is asked for a shorter context`() {
        val folder = bundle()
        val peak = ManifestReader.read(folder).ledger(Runtime.LITERT).peak
        memory = DeviceMemory(7_400L shl 20, peak - 1_000_000, 0)
        val engine = FakeEngine()
        val presenter = presenter(engine)
        presenter.check(folder)
        assertEquals(mapOf(Runtime.LITERT to 2048, Runtime.EXECUTORCH to 4096), view.options.associate { it.runtime to it.context })
        presenter.load(Runtime.LITERT, Device.CPU)
        threads.run()
        assertEquals(2048, engine.config?.context)
        assertEquals(2048, presenter.config(Runtime.LITERT, Device.CPU)?.context)
    }

    @Test
    fun `listing and checking do not wait for an answer`() {
        val presenter = presenter(FakeEngine())
        presenter.check(bundle())
        presenter.load()
        threads.run()
        val chat = checkNotNull(presenter.chat)
        chat.edit("go")
        chat.send()
        view.bundles = emptyList()
        view.prepared = null
        presenter.refresh()
        presenter.open(File(temporary.root, "nano"))
        threads.run(Lane.STORAGE, Lane.BUNDLES)
        assertEquals(listOf("nano"), view.bundles.map { it.name })
        assertNotNull(view.prepared)
        assertTrue(chat.isRunning, "the answer waits for the engine all the while")
        presenter.load()
        assertNull(presenter.chat)
        threads.run()
        assertEquals(2, store.load()?.turns?.size, "what was asked is kept when another engine is loaded")
    }

    @Test
    fun `an engine gives way when memory is short unless it speaks`() {
        val engine = FakeEngine()
        val presenter = presenter(engine)
        presenter.check(bundle())
        presenter.load()
        threads.run()
        presenter.chat!!.apply {
            edit("go")
            send()
        }
        presenter.releaseIfIdle()
        threads.run()
        assertEquals(0, engine.cleanUps)
        assertEquals("I do not know", store.load()?.turns?.last()?.text)
        presenter.releaseIfIdle()
        threads.run()
        assertEquals(1, engine.cleanUps)
        assertEquals(2, store.load()?.turns?.size)
    }
}
