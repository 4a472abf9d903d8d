package org.g3n.core

import org.g3n.core.bundle.BundleSize
import org.g3n.core.bundle.CacheShape
import org.g3n.core.bundle.Manifest
import org.g3n.core.bundle.ManifestReader
import org.g3n.core.bundle.Runtime
import org.g3n.core.device.ContextPolicy
import org.g3n.core.device.DeviceMemory
import org.g3n.core.device.FitCheck
import org.g3n.core.device.SizePolicy
import org.g3n.core.device.Verdict
import org.junit.Test
import kotlin.test.assertEquals
import kotlin.test.assertNull
import kotlin.test.assertTrue

class FitTest {
    private val manifest = ManifestReader.parse(Golden.text("manifest.json"))
    private val ledger = manifest.ledger(Runtime.LITERT)

    private fun device(totalMiB: Long, availableMiB: Long) = DeviceMemory(totalMiB shl 20, availableMiB shl 20, 100L shl 20)

    @Test
    fun `a phone is taken for the size it was sold as`() {
        assertEquals(8L shl 30, device(7_400, 3_000).nominal)
        assertEquals(2L shl 30, device(1_830, 900).nominal)
        assertEquals(64L shl 30, device(64 shl 10, 0).nominal)
    }

    @Test
    fun `the verdict is said with its figures`() {
        assertEquals(Verdict.FITS, FitCheck.of(ledger, device(7_400, 3_000)).verdict)
        assertEquals(Verdict.TIGHT, FitCheck.of(ledger, device(1_830, 150)).verdict)
        val small = FitCheck.of(ledger.copy(leastDeviceRam = 6L shl 30), device(3_700, 3_000))
        assertEquals(Verdict.TOO_SMALL, small.verdict)
        assertEquals(ledger.peak, small.peak)
        assertEquals(2_442_880 + 614_400 + 708_608, small.mapped)
        assertEquals(2_900L shl 20, small.usable)
        assertEquals(0, FitCheck.of(ledger, device(1_830, 50)).usable)
    }

    @Test
    fun `the runtime that fits comes first`() {
        val both = setOf(Runtime.LITERT, Runtime.EXECUTORCH)
        assertEquals(Runtime.LITERT, FitCheck.preferred(manifest, device(7_400, 3_000), both))
        assertEquals(Runtime.EXECUTORCH, FitCheck.preferred(manifest, device(7_400, 320), both))
        assertNull(FitCheck.preferred(manifest, device(7_400, 3_000), emptySet()))
    }

    @Test
    fun `the context is what the memory holds, in whole chunks, and no less than a conversation needs`() {
        // 300 MiB of caches, of which the four rings of 64 positions keep their length.
        val full = manifest.context
        val cache = CacheShape(300L shl 20, listOf(full), listOf(64, 64, 64, 64))
        val large = manifest.copy(cache = cache, memory = mapOf(Runtime.LITERT to ledger.copy(loadPeak = 500L shl 20)))
        fun context(freeMiB: Long, of: Manifest = large, runtime: Runtime = Runtime.LITERT) =
            ContextPolicy.preferred(of, runtime, device(7_400, 100 + freeMiB))
        assertEquals(4096, full)
        assertEquals(full, context(500))
        val chosen = context(450)
        assertEquals(3328, chosen)
        assertTrue(ContextPolicy.saved(large, chosen) in (50L shl 20)..(55L shl 20))
        assertEquals(1024, context(10))
        assertEquals(full, context(10, large.copy(cache = cache.copy(bytes = 30L shl 20))))
        // Where the window is as long as the context, the caches have one length.
        assertEquals(full, context(10, large.copy(cache = cache.copy(sliding = listOf(full)))))
        assertEquals(full, context(10, large.copy(memory = mapOf(Runtime.EXECUTORCH to ledger)), Runtime.EXECUTORCH))
        val fit = FitCheck.of(large.ledger(Runtime.LITERT), device(7_400, 550), ContextPolicy.saved(large, chosen))
        assertEquals(Verdict.FITS, fit.verdict)
    }

    @Test
    fun `a context is rounded up to whole chunks of a prompt`() {
        assertEquals(256, manifest.longestPrefill)
        assertEquals(listOf(256, 256, 512, 4096), listOf(1, 256, 300, 4096).map(manifest::wholeChunks))
    }

    @Test
    fun `the largest size that the device holds is preferred`() {
        val elastic = manifest.copy(sizes = listOf(BundleSize("full", 8L shl 30), BundleSize("half", 4L shl 30)))
        assertEquals("full", SizePolicy.preferred(elastic.sizes, device(7_400, 0))?.name)
        assertEquals("half", SizePolicy.preferred(elastic.sizes, device(5_600, 0))?.name)
        assertEquals("half", SizePolicy.preferred(elastic.sizes, device(1_800, 0))?.name)
        assertNull(SizePolicy.preferred(manifest.sizes, device(7_400, 0)))
    }
}
