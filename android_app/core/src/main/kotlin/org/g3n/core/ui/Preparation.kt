package org.g3n.core.ui

import org.g3n.core.bundle.Bundle
import org.g3n.core.bundle.Cancellation
import org.g3n.core.bundle.Device
import org.g3n.core.bundle.HashCheck
import org.g3n.core.bundle.Manifest
import org.g3n.core.bundle.Origin
import org.g3n.core.bundle.Progress
import org.g3n.core.bundle.Runtime
import org.g3n.core.bundle.SignatureCheck
import org.g3n.core.device.ContextPolicy
import org.g3n.core.device.FitCheck
import org.g3n.core.device.SizePolicy
import org.g3n.core.engine.EngineException
import org.g3n.core.engine.EngineFactory
import java.io.File

/** Reads a bundle, checks it, and judges how it may be loaded. */
internal class Preparation(private val engines: EngineFactory, private val environment: LoadEnvironment) {
    /**
     * The bundle in [directory], whose files are hashed if they were not before, or all if [isHashedAnew].
     *
     * Raises what is wrong with it, and [EngineException] for one that no engine of this app runs.
     */
    fun of(directory: File, isHashedAnew: Boolean, cancellation: Cancellation, onProgress: (Busy) -> Unit): Prepared {
        val bundle = Bundle.open(directory)
        val manifest = bundle.manifest
        val offered = manifest.runtimes.filter { it in engines.runtimes }
        if (offered.isEmpty()) {
            val has = manifest.runtimes.joinToString { it.id }
            throw EngineException("${manifest.name} was compiled for $has, for which this app has no engine")
        }
        val signer = SignatureCheck.run(bundle)
        val isAccepted = signer is Origin.Signed && environment.keys.contains(signer.fingerprint)
        val state = environment.checked.state(bundle)
        val wasHashed = !isHashedAnew && environment.checked.isKnown(state)
        if (!wasHashed) {
            HashCheck.run(bundle, cancellation, everyPercent { onProgress(Busy.Checking(manifest.name, it)) })
            environment.checked.remember(bundle, state)
        }
        val options = options(manifest, offered)
        val choice = options.first().let { Choice(it.runtime, it.devices.first(), it.size?.name) }
        return Prepared(bundle, options, choice, signer, isAccepted, wasHashed)
    }

    private fun options(manifest: Manifest, offered: List<Runtime>): List<LoadOption> {
        val memory = environment.device.memory()
        val first = FitCheck.preferred(manifest, memory, offered)
        return offered.sortedBy { it != first }.map { runtime ->
            val isAccelerated = runtime in manifest.acceleratedRuntimes
            val devices = if (isAccelerated) listOf(Device.ACCELERATOR, Device.CPU) else listOf(Device.CPU)
            val sizes = engines.sizes(manifest, runtime)
            val size = SizePolicy.preferred(sizes, memory)
            val context = ContextPolicy.preferred(manifest, runtime, memory)
            val fit = FitCheck.of(manifest.ledger(runtime), memory, ContextPolicy.saved(manifest, context))
            LoadOption(runtime, devices, fit, sizes, size, context)
        }
    }
}

/** Passes on only what changes the percentage: a bundle is read in thousands of pieces. */
internal fun everyPercent(onProgress: (Progress) -> Unit): (Progress) -> Unit {
    var shown = -1
    return { progress ->
        if (progress.percent != shown) {
            shown = progress.percent
            onProgress(progress)
        }
    }
}
