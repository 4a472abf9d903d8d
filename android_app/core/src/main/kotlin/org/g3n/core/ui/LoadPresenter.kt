package org.g3n.core.ui

import org.g3n.core.bundle.Bundle
import org.g3n.core.bundle.BundleImporter
import org.g3n.core.bundle.BundleSource
import org.g3n.core.bundle.Cancellation
import org.g3n.core.bundle.Cancelled
import org.g3n.core.bundle.Device
import org.g3n.core.bundle.ManifestReader
import org.g3n.core.bundle.Origin
import org.g3n.core.bundle.Runtime
import org.g3n.core.device.DeviceProbe
import org.g3n.core.engine.Engine
import org.g3n.core.engine.EngineConfig
import org.g3n.core.engine.EngineFactory
import org.g3n.core.session.AcceptedKeys
import org.g3n.core.session.CheckedFiles
import org.g3n.core.session.Session
import org.g3n.core.session.SessionStore
import java.io.File

/** What loading needs of the device and the app's storage. */
class LoadEnvironment(
    val device: DeviceProbe,
    val threads: Threads,
    val cacheDirectory: File?,
    val engineThreads: Int,
    val keys: AcceptedKeys,
    val checked: CheckedFiles,
    val store: SessionStore,
    val importer: BundleImporter = BundleImporter(),
)

/** Makes the conversation with a loaded engine, where [Session] is the one that was kept last. */
typealias ChatFactory = (Engine, EngineConfig, Session?) -> ChatPresenter

/**
 * From a folder to a loaded engine: read, check, judge, load.
 *
 * It outlives its screens: what was prepared, what is going on and what has not been answered is shown to the next one.
 *
 * @param places folders in which bundles may lie.
 */
class LoadPresenter(
    private val places: List<File>,
    private val engines: EngineFactory,
    private val environment: LoadEnvironment,
    private val chats: ChatFactory,
) {
    private val threads = environment.threads
    private val preparation = Preparation(engines, environment)
    private var view: LoadView? = null
    private var cancellation = Cancellation()
    private var bundles: List<File>? = null
    private var prepared: Prepared? = null
    private var busy: Busy? = null
    private var offer: CpuOffer? = null
    private var error: Throwable? = null
    private var isChatWaiting = false

    private class CpuOffer(val config: EngineConfig, val reason: String)

    /** The engine that was loaded last and not yet released; used on [Lane.ENGINE]. */
    @Volatile
    private var engine: Engine? = null

    /** The conversation with the loaded engine. */
    var chat: ChatPresenter? = null
        private set

    /** The bundle that is checked and can be loaded. */
    val bundle: Bundle? get() = prepared?.bundle

    fun attach(view: LoadView) {
        this.view = view
        bundles?.let(view::showBundles)
        view.showPrepared(prepared)
        view.showBusy(busy)
        view.showResume(chat != null)
        error?.let(view::showError)
        offer?.let { view.offerCpu(it.reason) }
        openChat()
    }

    fun detach() {
        view = null
    }

    /** Lists the folders that hold a manifest. */
    fun refresh() = work(Lane.STORAGE) { list() }

    /** Opens the bundle of the conversation that was kept last; loading it is up to the user. */
    fun restore() = work(Lane.STORAGE) {
        val folder = environment.store.load()?.let { File(it.bundlePath) } ?: return@work
        if (!File(folder, ManifestReader.FILE_NAME).isFile) return@work
        threads.main { if (prepared == null && busy == null) open(folder) }
    }

    /** Copies a bundle from [source] into [target] and checks it there. */
    fun copyAndOpen(source: BundleSource, target: File) = check { mine ->
        val folder = environment.importer.copy(source, target, mine, everyPercent { show(mine, Busy.Copying(it)) })
        list()
        prepare(folder, isHashedAnew = true, mine)
    }

    /** Reads the bundle in [directory], hashes what was not hashed before or all if [isHashedAnew], and judges it. */
    fun open(directory: File, isHashedAnew: Boolean = false) = check { mine -> prepare(directory, isHashedAnew, mine) }

    /** From now on the user knows the key with this [fingerprint], if it is the one that signed the checked bundle. */
    fun acceptKey(fingerprint: String) {
        if (prepared?.origin != Origin.Signed(fingerprint)) return
        work(Lane.STORAGE) {
            environment.keys.add(fingerprint)
            threads.main {
                if (prepared?.origin == Origin.Signed(fingerprint)) prepared = prepared?.copy(isAccepted = true)
                view?.showPrepared(prepared)
            }
        }
    }

    /** Ends copying or checking. */
    fun cancel() = cancellation.request()

    /** What the user wants of the prepared bundle. */
    fun choose(choice: Choice) {
        prepared = prepared?.copy(choice = choice)
    }

    /** Loads the checked bundle as it was chosen. */
    fun load() {
        val (runtime, device, size) = prepared?.choice ?: return
        val whole = size == null || size == prepared?.bundle?.manifest?.sizes?.firstOrNull()?.name
        load(config(runtime, device, size.takeUnless { whole }) ?: return)
    }

    /** The checked bundle's configuration. */
    fun config(runtime: Runtime, device: Device, size: String? = null): EngineConfig? {
        val shown = prepared ?: return null
        val context = shown.options.firstOrNull { it.runtime == runtime }?.context ?: return null
        return EngineConfig(shown.bundle, runtime, device, environment.engineThreads, environment.cacheDirectory, size, context)
    }

    /** Answers [LoadView.offerCpu]: the same bundle on the CPU, or nothing. */
    fun answerOffer(useCpu: Boolean) {
        val config = offer?.config ?: return
        offer = null
        if (useCpu) load(config.copy(device = Device.CPU))
    }

    /** Answers [LoadView.showError]. */
    fun errorSeen() {
        error = null
    }

    /** Frees the engine; the conversation is kept. */
    fun release() {
        closeChat()
        threads.background(Lane.ENGINE) { freeEngine() }
    }

    /** Frees the engine unless it is answering or being loaded: the system is short of memory. */
    fun releaseIfIdle() {
        if (chat?.isRunning != true && busy !is Busy.Loading) release()
    }

    private fun list() {
        val found = places.flatMap { it.listFiles().orEmpty().toList() }
            .filter { File(it, ManifestReader.FILE_NAME).isFile }
            .sortedBy { it.name }
        threads.main {
            bundles = found
            view?.showBundles(found)
        }
    }

    private fun check(action: (Cancellation) -> Unit) {
        if (busy is Busy.Loading) return
        val mine = renew()
        prepared = null
        view?.showPrepared(null)
        work(Lane.BUNDLES, mine) { action(mine) }
    }

    /** Something else begins: what was going on ends, and what it asked or said is forgotten. */
    private fun renew(): Cancellation {
        cancellation.request()
        offer = null
        error = null
        return Cancellation().also { cancellation = it }
    }

    private fun prepare(directory: File, isHashedAnew: Boolean, mine: Cancellation) {
        val found = preparation.of(directory, isHashedAnew, mine) { show(mine, it) }
        threads.main {
            if (mine.isRequested) return@main
            busy = null
            prepared = found
            view?.showBusy(null)
            view?.showPrepared(prepared)
        }
    }

    private fun load(config: EngineConfig) {
        if (busy is Busy.Loading) return
        renew()
        closeChat()
        show(Busy.Loading(config.runtime, config.device))
        threads.background(Lane.ENGINE) {
            try {
                freeEngine()
                engine = initialized(config)
                // By way of the main thread: what the conversation before has still to save comes first.
                threads.main { threads.background(Lane.STORAGE) { converse(config) } }
            } catch (error: Exception) {
                threads.main { fail(config, error) }
            }
        }
    }

    private fun initialized(config: EngineConfig): Engine {
        val made = engines.create(config.runtime)
        try {
            made.initialize(config)
        } catch (error: Exception) {
            made.cleanUp()
            throw error
        }
        return made
    }

    private fun converse(config: EngineConfig) {
        val session = environment.store.load()
        threads.main {
            val loaded = engine
            show(null)
            if (loaded == null) return@main
            chat = chats(loaded, config, session)
            isChatWaiting = true
            view?.showResume(true)
            openChat()
        }
    }

    private fun openChat() {
        val shown = view ?: return
        if (!isChatWaiting) return
        isChatWaiting = false
        shown.openChat()
    }

    private fun fail(config: EngineConfig, failure: Exception) {
        show(null)
        if (config.device == Device.CPU) return show(failure)
        val reason = failure.message ?: "the accelerator refused the bundle"
        offer = CpuOffer(config, reason)
        view?.offerCpu(reason)
    }

    private fun closeChat() {
        chat?.close()
        chat = null
        isChatWaiting = false
        view?.showResume(false)
    }

    private fun freeEngine() {
        engine?.cleanUp()
        engine = null
    }

    /** Runs [action] on [lane]; whatever is thrown at the app from a stranger's file or provider is told, not fatal. */
    private fun work(lane: Lane, mine: Cancellation? = null, action: () -> Unit) = threads.background(lane) {
        try {
            action()
        } catch (_: Cancelled) {
            list()
            threads.main { if (mine === cancellation) show(null) }
        } catch (failure: Exception) {
            threads.main {
                if (mine === cancellation) show(null)
                if (mine?.isRequested != true) show(failure)
            }
        }
    }

    private fun show(failure: Exception) {
        error = failure
        view?.showError(failure)
    }

    private fun show(busy: Busy?) {
        this.busy = busy
        view?.showBusy(busy)
    }

    private fun show(mine: Cancellation, busy: Busy) = threads.main { if (!mine.isRequested) show(busy) }
}
