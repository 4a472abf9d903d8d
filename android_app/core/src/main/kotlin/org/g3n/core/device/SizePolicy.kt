package org.g3n.core.device

import org.g3n.core.bundle.BundleSize

/** Chooses among the sizes of an elastic bundle. */
object SizePolicy {
    /** Of [sizes] the largest that [memory] holds, else the smallest; `null` if there are none. */
    fun preferred(sizes: List<BundleSize>, memory: DeviceMemory): BundleSize? {
        val rising = sizes.sortedBy { it.leastDeviceRam }
        return rising.lastOrNull { it.leastDeviceRam <= memory.nominal } ?: rising.firstOrNull()
    }
}
