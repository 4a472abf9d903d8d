package org.g3n.core.device

import org.g3n.core.bundle.BundleSize
import org.g3n.core.bundle.Manifest

/** Chooses among the sizes of an elastic bundle. */
object SizePolicy {
    /** The largest size that [memory] holds, else the smallest; `null` when the bundle has one size only. */
    fun preferred(manifest: Manifest, memory: DeviceMemory): BundleSize? {
        val rising = manifest.sizes.sortedBy { it.leastDeviceRam }
        return rising.lastOrNull { it.leastDeviceRam <= memory.nominal } ?: rising.firstOrNull()
    }
}
