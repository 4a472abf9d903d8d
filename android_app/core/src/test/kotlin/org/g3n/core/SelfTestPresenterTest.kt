package org.g3n.core

import org.g3n.core.bundle.Bundle
import org.g3n.core.bundle.Device
import org.g3n.core.bundle.ManifestReader
import org.g3n.core.bundle.Runtime
import org.g3n.core.bundle.Sampling
import org.g3n.core.engine.EngineConfig
import org.g3n.core.ui.SelfTestPresenter
import org.g3n.core.ui.SelfTestRow
import org.g3n.core.ui.SelfTestSummary
import org.g3n.core.ui.SelfTestVerdict
import org.g3n.core.ui.SelfTestView
import org.junit.Rule
import org.junit.Test
import org.junit.rules.TemporaryFolder
import kotlin.test.assertEquals
import kotlin.test.assertFalse
import kotlin.test.assertNull
import kotlin.test.assertTrue

class SelfTestPresenterTest {
    @get:Rule
    val temporary = TemporaryFolder()

    private val reverse = "Reverse: stone river house"
    private val river = "Use \"river\" in a sentence."
    private val right = ManifestReader.parse(Golden.text("manifest.json")).golden.associate { it.prompt to listOf(it.text) }

    private fun run(vararg engines: FakeEngine, accelerated: Boolean = true): RecordingView {
        val bundle = Bundle.open(
            BundleMaker(temporary.newFolder()).make { manifest ->
                if (accelerated) JsonTree.list(manifest["subgraphs"]).forEach { JsonTree.map(it)["device"] = "accelerator" }
            },
        )
        val config = EngineConfig(bundle, Runtime.LITERT, Device.CPU, 2, null)
        val threads = QueuedThreads()
        val view = RecordingView()
        SelfTestPresenter(FakeFactory(*engines), config, threads).apply {
            attach(view)
            start()
        }
        threads.run()
        return view
    }

    @Test
    fun `clean hardware passes greedily and frees its engines`() {
        val cpu = FakeEngine(right)
        val gpu = FakeEngine(right)
        val view = run(cpu, gpu)
        assertEquals(SelfTestVerdict.SAME to SelfTestVerdict.SAME, view.summary)
        assertEquals(listOf(Device.CPU, Device.CPU, Device.ACCELERATOR, Device.ACCELERATOR), view.rows.map { it.device })
        assertEquals(setOf(Sampling.GREEDY), (cpu.samplings + gpu.samplings).toSet())
        assertTrue(cpu.cleanUps == 1 && gpu.cleanUps == 1)
    }

    @Test
    fun `a GPU that corrupts in silence is found`() {
        val noise = FakeEngine(mapOf(reverse to List(24) { " the" }, river to listOf("<pad>", "<pad>")))
        val view = run(FakeEngine(right), noise)
        assertEquals(SelfTestVerdict.SAME to SelfTestVerdict.BROKEN, view.summary)
    }

    @Test
    fun `other rounding is told from corruption`() {
        val other = FakeEngine(right + (reverse to listOf("Reversed: stone house river")))
        val view = run(FakeEngine(right), other)
        assertEquals(SelfTestVerdict.SAME to SelfTestVerdict.DIFFERS, view.summary)
        assertTrue("from character 11 on" in view.rows[2].detail, view.rows[2].detail)
    }

    @Test
    fun `the accelerator is compared with this device's CPU`() {
        val arm = right + (reverse to listOf("Reversed: stone"))
        val view = run(FakeEngine(arm), FakeEngine(arm))
        assertEquals(SelfTestVerdict.DIFFERS to SelfTestVerdict.SAME, view.summary)
    }

    @Test
    fun `an accelerator that does not load is a row a prompt`() {
        val view = run(FakeEngine(right), FakeEngine(refuses = setOf(Device.ACCELERATOR)))
        assertEquals(SelfTestVerdict.FAILED, view.summary?.second)
        assertEquals("no OpenCL library on this device", view.rows.last().detail)
    }

    @Test
    fun `an accelerator that is lost on the way is a failure`() {
        assertEquals(SelfTestVerdict.FAILED, run(FakeEngine(right), FakeEngine(right, failsAfter = 0)).summary?.second)
    }

    @Test
    fun `a bundle for the CPU is tested there only`() {
        val view = run(FakeEngine(right), accelerated = false)
        assertEquals(SelfTestVerdict.SAME, view.summary?.first)
        assertNull(view.summary?.second)
        assertEquals(2, view.rows.size)
    }

    @Test
    fun `a turned screen gets the rows so far and the rest`() {
        val bundle = Bundle.open(BundleMaker(temporary.newFolder()).make())
        val threads = QueuedThreads()
        val presenter = SelfTestPresenter(FakeFactory(FakeEngine(right)), EngineConfig(bundle, Runtime.LITERT, Device.CPU, 2, null), threads)
        val turned = RecordingView()
        val first = object : SelfTestView by RecordingView() {
            override fun showRow(row: SelfTestRow) = presenter.attach(turned)
        }
        presenter.attach(first)
        presenter.start()
        threads.run()
        assertEquals(2, turned.rows.size)
        assertEquals(SelfTestVerdict.SAME, turned.summary?.first)
        assertFalse(turned.isRunning)
        val later = RecordingView()
        presenter.attach(later)
        assertEquals(turned.rows, later.rows)
        assertEquals(turned.summary, later.summary)
    }

    @Test
    fun `it gives way to what needs the engine`() {
        val bundle = Bundle.open(BundleMaker(temporary.newFolder()).make())
        val threads = QueuedThreads()
        val engine = FakeEngine(right)
        val presenter = SelfTestPresenter(FakeFactory(engine), EngineConfig(bundle, Runtime.LITERT, Device.CPU, 2, null), threads)
        val view = RecordingView()
        presenter.attach(view)
        engine.beforePiece = { presenter.stop() }
        presenter.start()
        threads.run()
        assertEquals(SelfTestVerdict.FAILED, view.summary?.first)
        assertEquals(1, engine.cleanUps)
    }

    @Test
    fun `broken text is told from plain text`() {
        for (text in listOf("", "  ", "<pad><pad>", "the ".repeat(20).trim(), "aaaaaaaaaaaaaaaaaaaaaaaa")) {
            assertTrue(SelfTestPresenter.isBroken(text), text)
        }
        for (text in listOf("A.", "no no no", right.getValue(river).single())) assertFalse(SelfTestPresenter.isBroken(text), text)
    }

    private class RecordingView : SelfTestView {
        val rows = ArrayList<SelfTestRow>()
        var summary: Pair<SelfTestVerdict, SelfTestVerdict?>? = null
        var isRunning = false

        override fun showRunning(isRunning: Boolean) {
            this.isRunning = isRunning
        }

        override fun showRow(row: SelfTestRow) {
            rows += row
        }

        override fun showSummary(summary: SelfTestSummary) {
            this.summary = summary.cpu to summary.accelerator
        }
    }
}
