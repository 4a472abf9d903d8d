package org.g3n.core

import org.g3n.core.bundle.BundleSource
import org.g3n.core.bundle.Device
import org.g3n.core.bundle.HashMismatch
import org.g3n.core.bundle.InvalidSignature
import org.g3n.core.bundle.ManifestReader
import org.g3n.core.bundle.NotABundle
import org.g3n.core.bundle.Origin
import org.g3n.core.bundle.Progress
import org.g3n.core.bundle.Runtime
import org.g3n.core.device.DeviceMemory
import org.g3n.core.device.Verdict
import org.g3n.core.engine.EngineConfig
import org.g3n.core.engine.EngineException
import org.g3n.core.session.Session
import org.g3n.core.ui.Busy
import org.g3n.core.ui.ChatEnvironment
import org.g3n.core.ui.ChatPresenter
import org.g3n.core.ui.Choice
import org.g3n.core.ui.Lane
import org.g3n.core.ui.LoadEnvironment
import org.g3n.core.ui.LoadOption
import org.g3n.core.ui.LoadPresenter
import org.g3n.core.ui.LoadView
import org.g3n.core.ui.Prepared
import org.junit.Rule
import org.junit.Test
import org.junit.rules.TemporaryFolder
import java.io.File
import kotlin.test.assertEquals
import kotlin.test.assertFailsWith
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
    private val checked = MemoryChecked()
    private val store = MemoryStore()
    private var loaded: EngineConfig? = null
    private var memory = DeviceMemory(7_400L shl 20, 3_000L shl 20, 100L shl 20)

    private fun presenter(vararg engines: FakeEngine, runtimes: Set<Runtime> = Runtime.entries.toSet()): LoadPresenter {
        val factory = FakeFactory(*engines, runtimes = runtimes)
        val environment = LoadEnvironment({ memory }, threads, null, 4, keys, checked, store)
        val chat = ChatEnvironment(store, MemoryFiles(), threads, TickingClock())
        return LoadPresenter(listOf(temporary.root), factory, environment) { engine, config, session ->
            loaded = config
            ChatPresenter(engine, config, session, chat)
        }.also { it.attach(view) }
    }

    private fun LoadPresenter.load(runtime: Runtime, device: Device, size: String? = null) {
        choose(Choice(runtime, device, size))
        load()
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
        assertEquals(listOf("chosen"), view.bundles.map { it.name })
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
    fun `a turned or later screen is shown all of it`() {
        val presenter = presenter(FakeEngine(refuses = setOf(Device.ACCELERATOR)))
        presenter.check(bundle(accelerated = true))
        val chosen = Choice(Runtime.EXECUTORCH, Device.CPU, null)
        presenter.choose(chosen)
        presenter.detach()
        val turned = RecordingView()
        presenter.attach(turned)
        assertEquals(view.options, turned.options)
        assertEquals(chosen, turned.prepared?.choice)
        presenter.load(Runtime.LITERT, Device.ACCELERATOR)
        presenter.detach()
        RecordingView().also { presenter.attach(it) }.also { assertEquals(Busy.Loading(Runtime.LITERT, Device.ACCELERATOR), it.busy) }
        presenter.detach()
        threads.run()
        val late = RecordingView()
        presenter.attach(late)
        assertNull(late.busy)
        assertEquals("no OpenCL library on this device", late.cpuOffer)
        presenter.detach()
        presenter.attach(RecordingView().also { presenter.answerOffer(useCpu = false) }.also { assertNull(it.cpuOffer) })
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
        val turned = RecordingView()
        presenter.attach(turned)
        assertIs<NotABundle>(turned.error)
        presenter.errorSeen()
        presenter.attach(RecordingView().also { assertNull(it.error) })
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
    fun `a bundle is hashed once and again when asked`() {
        val presenter = presenter()
        presenter.check(bundle())
        assertEquals(false, view.prepared?.wasHashed)
        view.checking.clear()
        presenter.check(bundle())
        assertEquals(true, view.prepared?.wasHashed)
        assertTrue(view.checking.isEmpty())
        presenter.open(File(temporary.root, "nano"), isHashedAnew = true)
        threads.run()
        assertEquals(100, view.checking.last().percent)
    }

    @Test
    fun `the bundle of the last conversation is opened at start`() {
        val folder = bundle()
        store.save(Session(folder.path, Runtime.LITERT, Device.CPU, null, emptyList()))
        val presenter = presenter()
        presenter.restore()
        assertNull(view.prepared)
        threads.run()
        assertEquals(folder, view.prepared?.bundle?.directory)
    }

    @Test
    fun `a bundle of the last conversation that is gone is no error`() {
        store.save(Session("/gone", Runtime.LITERT, Device.CPU, null, emptyList()))
        presenter().restore()
        threads.run()
        assertNull(view.error)
    }

    @Test
    fun `a provider that fails and an engine that will not close are told and not fatal`() {
        val presenter = presenter()
        presenter.copyAndOpen(BundleSource { throw SecurityException("the right to read has ended") }, temporary.newFolder("app"))
        threads.run()
        assertEquals("the right to read has ended", view.error?.message)
        assertNull(view.busy)
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

    private class RecordingView : LoadView {
        var bundles: List<File> = emptyList()
        val copying = ArrayList<Progress>()
        val checking = ArrayList<Progress>()
        var prepared: Prepared? = null
        var options: List<LoadOption> = emptyList()
        var busy: Busy? = null
        var cpuOffer: String? = null
        var canResume = false
        var chatsOpened = 0
        var error: Throwable? = null
        var onChecking: () -> Unit = {}
        val origin: Pair<Origin, Boolean>? get() = prepared?.let { it.origin to it.isAccepted }

        override fun showBundles(bundles: List<File>) {
            this.bundles = bundles
        }

        override fun showBusy(busy: Busy?) {
            this.busy = busy
            if (busy is Busy.Copying) copying += busy.progress
            if (busy is Busy.Checking) {
                checking += busy.progress
                onChecking()
            }
        }

        override fun showPrepared(prepared: Prepared?) {
            this.prepared = prepared
            options = prepared?.options.orEmpty()
        }

        override fun showResume(isPossible: Boolean) {
            canResume = isPossible
        }

        override fun openChat() {
            chatsOpened++
        }

        override fun offerCpu(reason: String) {
            cpuOffer = reason
        }

        override fun showError(error: Throwable) {
            this.error = error
        }
    }
}
