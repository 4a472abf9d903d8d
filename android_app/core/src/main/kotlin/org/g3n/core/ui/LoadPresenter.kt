package org.g3n.core.ui

import org.g3n.core.bundle.Bundle
import org.g3n.core.bundle.BundleException
import org.g3n.core.bundle.BundleImporter
import org.g3n.core.bundle.BundleSize
import org.g3n.core.bundle.BundleSource
import org.g3n.core.bundle.Cancellation
import org.g3n.core.bundle.Cancelled
import org.g3n.core.bundle.Device
import org.g3n.core.bundle.HashCheck
import org.g3n.core.bundle.ManifestReader
import org.g3n.core.bundle.Origin
import org.g3n.core.bundle.Progress
import org.g3n.core.bundle.Runtime
import org.g3n.core.bundle.SignatureCheck
import org.g3n.core.device.DeviceProbe
import org.g3n.core.device.Fit
import org.g3n.core.device.FitCheck
import org.g3n.core.device.SizePolicy
import org.g3n.core.engine.Engine
import org.g3n.core.engine.EngineConfig
import org.g3n.core.engine.EngineException
import org.g3n.core.engine.EngineFactory
import org.g3n.core.session.AcceptedKeys
import java.io.File
import java.io.IOException

/** How a checked bundle may be loaded, one for each runtime. */
data class LoadOption(val runtime: Runtime, val devices: List<Device>, val fit: Fit)

/** What the screen that loads a bundle can show. */
interface LoadView {
    fun showBundles(bundles: List<File>)

    fun showCopying(progress: Progress)

    fun showChecking(name: String, progress: Progress)

    /** The bundle is whole: what it is and whether it fits. The first option and [size] are what the app would choose. */
    fun showReady(bundle: Bundle, options: List<LoadOption>, size: BundleSize?)

    /** Who made the bundle that is ready, and whether the user has [accepted] the key. */
    fun showOrigin(origin: Origin, accepted: Boolean)

    fun showLoading(runtime: Runtime, device: Device)

    fun showLoaded(config: EngineConfig)

    /** The accelerator refused the bundle; the same can be tried on the CPU. */
    fun offerCpu(reason: String)

    fun showError(error: Throwable)
}

/**
 * From a folder to a loaded engine: read, check, judge, load.
 *
 * @param places folders in which bundles may lie.
 * @param runtimes the ones this build of the app carries engines for.
 * @param keys the signing keys that the user has accepted.
 */
class LoadPresenter(
    private val places: List<File>,
    private val engines: EngineFactory,
    private val runtimes: Set<Runtime>,
    private val device: DeviceProbe,
    private val threads: Threads,
    private val cacheDirectory: File?,
    private val engineThreads: Int,
    private val keys: AcceptedKeys,
    private val importer: BundleImporter = BundleImporter(),
) {
    private var view: LoadView? = null
    private var cancellation = Cancellation()
    private var last: EngineConfig? = null

    /** The engine that was loaded last and not yet released. */
    var engine: Engine? = null
        private set

    /** The bundle that is checked and can be loaded. */
    var bundle: Bundle? = null
        private set

    /** Who made [bundle]. */
    private var origin: Origin = Origin.NotSigned

    fun attach(view: LoadView) {
        this.view = view
    }

    fun detach() {
        view = null
    }

    /** Lists the folders that hold a manifest. */
    fun refresh() = work { list() }

    /** Copies a bundle from [source] into [target] and checks it there. */
    fun copyAndOpen(source: BundleSource, target: File) {
        val mine = renew()
        work {
            val folder = importer.copy(source, target, mine, throttled { show { showCopying(it) } })
            check(folder, mine)
        }
    }

    /** Reads and hashes the bundle in [directory] and says whether it fits. */
    fun open(directory: File) {
        val mine = renew()
        work { check(directory, mine) }
    }

    /** From now on the user knows the key with this [fingerprint], if it is the one that signed the checked bundle. */
    fun acceptKey(fingerprint: String) {
        val signed = Origin.Signed(fingerprint)
        if (origin != signed) return
        work {
            keys.add(signed.fingerprint)
            show { showOrigin(signed, true) }
        }
    }

    /** Ends copying or checking. */
    fun cancel() = cancellation.request()

    /** Loads the checked bundle. */
    fun load(runtime: Runtime, device: Device, size: String?) {
        val checked = bundle ?: return
        load(EngineConfig(checked, runtime, device, engineThreads, cacheDirectory, size))
    }

    /** After [LoadView.offerCpu]: the same bundle on the CPU. */
    fun loadOnCpu() {
        last?.let { load(it.copy(device = Device.CPU)) }
    }

    /** Frees the engine. */
    fun release() = work { freeEngine() }

    private fun list() {
        val found = places.flatMap { it.listFiles().orEmpty().toList() }
            .filter { File(it, ManifestReader.FILE_NAME).isFile }
            .sortedBy { it.name }
        show { showBundles(found) }
    }

    private fun check(directory: File, cancellation: Cancellation) {
        val opened = Bundle.open(directory)
        val offered = opened.manifest.runtimes.filter { it in runtimes }
        if (offered.isEmpty()) {
            val has = opened.manifest.runtimes.joinToString { it.id }
            throw EngineException("${opened.manifest.name} was compiled for $has, for which this app has no engine")
        }
        val name = opened.manifest.name
        val signer = SignatureCheck.run(opened)
        val accepted = signer is Origin.Signed && keys.contains(signer.fingerprint)
        HashCheck.run(opened, cancellation, throttled { show { showChecking(name, it) } })
        val memory = device.memory()
        val first = FitCheck.preferred(opened.manifest, memory, offered)
        val options = offered.sortedBy { it != first }.map { runtime ->
            val accelerated = runtime in opened.manifest.acceleratedRuntimes
            val devices = if (accelerated) listOf(Device.ACCELERATOR, Device.CPU) else listOf(Device.CPU)
            LoadOption(runtime, devices, FitCheck.of(opened.manifest.ledger(runtime), memory))
        }
        val size = SizePolicy.preferred(opened.manifest, memory)
        threads.main {
            bundle = opened
            origin = signer
            view?.showReady(opened, options, size)
            view?.showOrigin(signer, accepted)
        }
    }

    private fun load(config: EngineConfig) {
        last = config
        view?.showLoading(config.runtime, config.device)
        work {
            freeEngine()
            val made = engines.create(config.runtime)
            try {
                made.initialize(config)
            } catch (error: EngineException) {
                made.cleanUp()
                if (config.device == Device.CPU) throw error
                show { offerCpu(error.message ?: "the accelerator refused the bundle") }
                return@work
            }
            engine = made
            show { showLoaded(config) }
        }
    }

    private fun freeEngine() {
        engine?.cleanUp()
        engine = null
    }

    private fun renew(): Cancellation {
        cancellation.request()
        return Cancellation().also { cancellation = it }
    }

    private fun work(action: () -> Unit) = threads.background {
        try {
            action()
        } catch (_: Cancelled) {
            list()
        } catch (error: BundleException) {
            show { showError(error) }
        } catch (error: EngineException) {
            show { showError(error) }
        } catch (error: IOException) {
            show { showError(error) }
        }
    }

    private fun show(action: LoadView.() -> Unit) = threads.main { view?.action() }

    /** Passes on only what changes the percentage: a bundle is read in thousands of pieces. */
    private fun throttled(onProgress: (Progress) -> Unit): (Progress) -> Unit {
        var shown = -1
        return { progress ->
            if (progress.percent != shown) {
                shown = progress.percent
                onProgress(progress)
            }
        }
    }
}
