package org.g3n.core

import org.g3n.core.bundle.Bundle
import org.g3n.core.bundle.BundleSize
import org.g3n.core.bundle.BundleSource
import org.g3n.core.bundle.Device
import org.g3n.core.bundle.HashMismatch
import org.g3n.core.bundle.InvalidSignature
import org.g3n.core.bundle.NotABundle
import org.g3n.core.bundle.Origin
import org.g3n.core.bundle.Progress
import org.g3n.core.bundle.Runtime
import org.g3n.core.device.DeviceMemory
import org.g3n.core.device.Verdict
import org.g3n.core.engine.EngineConfig
import org.g3n.core.engine.EngineException
import org.g3n.core.ui.LoadOption
import org.g3n.core.ui.LoadPresenter
import org.g3n.core.ui.LoadView
import org.junit.Rule
import org.junit.Test
import org.junit.rules.TemporaryFolder
import java.io.File
import kotlin.test.assertEquals
import kotlin.test.assertIs
import kotlin.test.assertNotNull
import kotlin.test.assertNull
import kotlin.test.assertTrue

class LoadPresenterTest {
    @get:Rule
    val temporary = TemporaryFolder()

    private val threads = QueuedThreads()
    private val view = RecordingView()
    private val keys = MemoryKeys()
    private var memory = DeviceMemory(7_400L shl 20, 3_000L shl 20, 100L shl 20)

    private fun presenter(vararg engines: FakeEngine, runtimes: Set<Runtime> = Runtime.entries.toSet()): LoadPresenter {
        val factory = FakeFactory(*engines)
        return LoadPresenter(listOf(temporary.root), factory, runtimes, { memory }, threads, null, 4, keys).also { it.attach(view) }
    }

    private fun bundle(name: String = "nano", accelerated: Boolean = false): File =
        BundleMaker(File(temporary.root, name)).make { manifest ->
            if (accelerated) {
                JsonTree.list(manifest["subgraphs"]).forEach { JsonTree.map(it)["device"] = "accelerator" }
            }
        }

    private fun LoadPresenter.check(directory: File) {
        open(directory)
        threads.run()
    }

    @Test
    fun `bundles are listed where they lie`() {
        bundle("b")
        bundle("a")
        File(temporary.root, "no bundle").mkdirs()
        presenter().refresh()
        threads.run()
        assertEquals(listOf("a", "b"), view.bundles.map { it.name })
    }

    @Test
    fun `a bundle is checked judged and loaded`() {
        val engine = FakeEngine()
        val presenter = presenter(engine)
        presenter.check(bundle())
        assertTrue(view.checking.first().percent == 0 && view.checking.last().percent == 100)
        assertEquals(listOf(Runtime.LITERT, Runtime.EXECUTORCH), view.options.map { it.runtime })
        assertEquals(Verdict.FITS, view.options.first().fit.verdict)
        assertEquals(listOf(Device.CPU), view.options.first().devices)
        assertNull(view.loaded)
        presenter.load(Runtime.LITERT, Device.CPU, null)
        threads.run()
        assertEquals(Runtime.LITERT, view.loaded?.runtime)
        assertEquals(4, engine.config?.threads)
        assertEquals(engine, presenter.engine)
        presenter.release()
        threads.run()
        assertEquals(1, engine.cleanUps)
        assertNull(presenter.engine)
    }

    @Test
    fun `loading anew frees the engine before`() {
        val first = FakeEngine()
        val presenter = presenter(first, FakeEngine())
        presenter.check(bundle())
        presenter.load(Runtime.LITERT, Device.CPU, null)
        presenter.load(Runtime.EXECUTORCH, Device.CPU, null)
        threads.run()
        assertEquals(1, first.cleanUps)
        assertEquals(Runtime.EXECUTORCH, view.loaded?.runtime)
    }

    @Test
    fun `too little memory is said before loading`() {
        memory = DeviceMemory(900L shl 20, 500L shl 20, 100L shl 20)
        presenter().check(bundle())
        assertEquals(setOf(Verdict.TOO_SMALL), view.options.map { it.fit.verdict }.toSet())
        assertNull(view.loaded)
    }

    @Test
    fun `an accelerator that refuses offers the CPU`() {
        val presenter = presenter(FakeEngine(refuses = setOf(Device.ACCELERATOR)), FakeEngine())
        presenter.check(bundle(accelerated = true))
        assertEquals(listOf(Device.ACCELERATOR, Device.CPU), view.options.first().devices)
        presenter.load(Runtime.LITERT, Device.ACCELERATOR, null)
        threads.run()
        assertEquals("no OpenCL library on this device", view.cpuOffer)
        assertNull(view.loaded)
        assertNull(view.error)
        presenter.loadOnCpu()
        threads.run()
        assertEquals(Device.CPU, view.loaded?.device)
    }

    @Test
    fun `an engine that fails on the CPU is an error`() {
        val presenter = presenter(FakeEngine(refuses = setOf(Device.CPU)))
        presenter.check(bundle())
        presenter.load(Runtime.LITERT, Device.CPU, null)
        threads.run()
        assertIs<EngineException>(view.error)
        assertNull(view.cpuOffer)
        assertNull(presenter.engine)
    }

    @Test
    fun `what is wrong with a bundle is shown`() {
        val presenter = presenter()
        presenter.check(temporary.newFolder("empty"))
        assertIs<NotABundle>(view.error)
        File(bundle(), "model.ptd").writeText("tablet")
        presenter.check(File(temporary.root, "nano"))
        assertIs<HashMismatch>(view.error)
        assertNull(presenter.bundle)
    }

    @Test
    fun `a bundle for another runtime is told so`() {
        presenter(runtimes = emptySet()).check(bundle())
        assertTrue("litert, executorch" in view.error!!.message!!)
    }

    @Test
    fun `checking can be cancelled`() {
        val presenter = presenter()
        view.onChecking = { presenter.cancel() }
        presenter.check(bundle())
        assertTrue(view.options.isEmpty())
        assertEquals(listOf("nano"), view.bundles.map { it.name })
    }

    @Test
    fun `a chosen folder is copied and checked`() {
        val source = bundle("chosen")
        val target = temporary.newFolder("app")
        val presenter = presenter()
        presenter.copyAndOpen(BundleSource { path -> File(source, path).takeIf { it.isFile }?.inputStream() }, target)
        threads.run()
        assertEquals(100, view.copying.last().percent)
        assertEquals(File(target, "nano-host-int4"), assertNotNull(presenter.bundle).directory)
    }

    @Test
    fun `who made a bundle is shown and a key can be accepted`() {
        val signed = SignedBundle(temporary.newFolder("signed"))
        val presenter = presenter()
        presenter.check(signed.folder)
        assertEquals(Origin.Signed(signed.fingerprint) to false, view.origin)
        presenter.acceptKey("another")
        threads.run()
        assertEquals(false, view.origin?.second)
        presenter.acceptKey(signed.fingerprint)
        threads.run()
        assertEquals(Origin.Signed(signed.fingerprint) to true, view.origin)
        presenter.check(bundle())
        assertEquals(Origin.NotSigned to false, view.origin)
        presenter.check(signed.folder)
        assertEquals(Origin.Signed(signed.fingerprint) to true, view.origin)
    }

    @Test
    fun `a bundle with a broken signature is not opened`() {
        val signed = SignedBundle(temporary.newFolder("signed"))
        File(signed.folder, "manifest.json").appendText(" ")
        val presenter = presenter()
        presenter.check(signed.folder)
        assertIs<InvalidSignature>(view.error)
        assertNull(presenter.bundle)
        assertNull(view.origin)
    }

    @Test
    fun `a view that is gone is not called`() {
        val presenter = presenter()
        presenter.open(bundle())
        presenter.detach()
        threads.run()
        assertTrue(view.options.isEmpty())
        assertNotNull(presenter.bundle)
    }

    private class RecordingView : LoadView {
        var bundles: List<File> = emptyList()
        val copying = ArrayList<Progress>()
        val checking = ArrayList<Progress>()
        var options: List<LoadOption> = emptyList()
        var loaded: EngineConfig? = null
        var cpuOffer: String? = null
        var origin: Pair<Origin, Boolean>? = null
        var error: Throwable? = null
        var onChecking: () -> Unit = {}

        override fun showBundles(bundles: List<File>) {
            this.bundles = bundles
        }

        override fun showCopying(progress: Progress) {
            copying += progress
        }

        override fun showChecking(name: String, progress: Progress) {
            checking += progress
            onChecking()
        }

        override fun showReady(bundle: Bundle, options: List<LoadOption>, size: BundleSize?) {
            this.options = options
        }

        override fun showOrigin(origin: Origin, accepted: Boolean) {
            this.origin = origin to accepted
        }

        override fun showLoading(runtime: Runtime, device: Device) = Unit

        override fun showLoaded(config: EngineConfig) {
            loaded = config
        }

        override fun offerCpu(reason: String) {
            cpuOffer = reason
        }

        override fun showError(error: Throwable) {
            this.error = error
        }
    }
}
