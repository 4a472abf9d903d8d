package org.g3n.core.device

import org.g3n.core.bundle.Manifest
import org.g3n.core.bundle.MemoryKind
import org.g3n.core.bundle.MemoryLedger
import org.g3n.core.bundle.Runtime

/**
 * Memory of the device, in bytes.
 *
 * @property total what the system reports; less than was sold, since the kernel keeps a part.
 * @property available what can be had without ending other apps.
 * @property lowThreshold below this much available memory the system ends apps.
 */
data class DeviceMemory(val total: Long, val available: Long, val lowThreshold: Long) {
    /** The memory the device was sold with, to compare with the ledger's figure. */
    val nominal: Long get() = SOLD_GIB.map { it shl 30 }.firstOrNull { it >= total } ?: total

    private companion object {
        val SOLD_GIB = longArrayOf(1, 2, 3, 4, 6, 8, 12, 16, 18, 24, 32)
    }
}

/** Asks the device for its memory. */
fun interface DeviceProbe {
    fun memory(): DeviceMemory
}

/** Whether a bundle will run on a device, said before it is loaded. */
enum class Verdict {
    /** It fits beside what is running now. */
    FITS,

    /** It fits this device, but other apps must give up memory first. */
    TIGHT,

    /** The device is smaller than the least the ledger names: expect to be ended by the system. */
    TOO_SMALL,
}

/**
 * The figures behind a [Verdict], in bytes.
 *
 * @property peak what the runtime occupies at its fullest.
 * @property mapped the part of the files that is mapped and that the system may drop and read again.
 * @property usable what the device has for an app now.
 */
data class Fit(val verdict: Verdict, val peak: Long, val mapped: Long, val usable: Long, val leastDeviceRam: Long)

/** Compares the memory ledger with a device. */
object FitCheck {
    /** What an app can have of [memory] now, in bytes. */
    fun usable(memory: DeviceMemory): Long = maxOf(0L, memory.available - memory.lowThreshold)

    /** The verdict on [ledger], of which [saved] bytes are not needed. */
    fun of(ledger: MemoryLedger, memory: DeviceMemory, saved: Long = 0): Fit {
        val usable = usable(memory)
        val peak = ledger.peak - saved
        val mapped = ledger.parts.filter { it.kind == MemoryKind.MAPPED }.sumOf { it.bytes }
        val verdict = when {
            memory.nominal < ledger.leastDeviceRam -> Verdict.TOO_SMALL
            peak > usable -> Verdict.TIGHT
            else -> Verdict.FITS
        }
        return Fit(verdict, peak, mapped, usable, ledger.leastDeviceRam)
    }

    /** The runtime to offer first: the one with the best verdict, in the manifest's order where they tie. */
    fun preferred(manifest: Manifest, memory: DeviceMemory, offered: Collection<Runtime>): Runtime? =
        manifest.runtimes.filter { it in offered }.minByOrNull { of(manifest.ledger(it), memory).verdict.ordinal }
}
