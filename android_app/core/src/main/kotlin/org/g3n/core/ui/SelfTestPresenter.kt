package org.g3n.core.ui

import org.g3n.core.bundle.Device
import org.g3n.core.bundle.GoldenText
import org.g3n.core.bundle.Sampling
import org.g3n.core.chat.Role
import org.g3n.core.chat.Turn
import org.g3n.core.engine.Engine
import org.g3n.core.engine.EngineConfig
import org.g3n.core.engine.EngineFactory
import org.g3n.core.engine.StopSignal

/** What one golden prompt gave on one device. */
data class SelfTestRow(val device: Device, val prompt: String, val text: String, val verdict: SelfTestVerdict, val detail: String)

/** How an answer compares. */
enum class SelfTestVerdict {
    /** The same as the CPU's answer, or, on the CPU, as the one recorded when the bundle was compiled. */
    SAME,

    /** Sensible but different: other hardware rounds differently, and greedy text can part after a close call. */
    DIFFERS,

    /** Empty, or one character or word over and over: the hardware corrupts the results. */
    BROKEN,

    /** The engine failed. */
    FAILED,
}

/** What the self-test screen can show. */
interface SelfTestView {
    /** Whether prompts are being run. */
    fun showRunning(isRunning: Boolean)

    fun showRow(row: SelfTestRow)

    /** All is run. */
    fun showSummary(summary: SelfTestSummary)
}

/** What the rows come to; [accelerator] is `null` where the bundle has nothing for it. */
data class SelfTestSummary(val cpu: SelfTestVerdict, val accelerator: SelfTestVerdict?)

/**
 * Runs the bundle's golden prompts greedily on the CPU and the accelerator: some GPUs corrupt results in silence.
 *
 * It outlives its screens: the next one gets the rows so far.
 */
class SelfTestPresenter(
    private val engines: EngineFactory,
    val config: EngineConfig,
    private val threads: Threads,
    private val maxNewTokens: Int = 24,
) {
    private var view: SelfTestView? = null
    private val rows = ArrayList<SelfTestRow>()
    private var summary: SelfTestSummary? = null
    private val stop = StopSignal()

    fun attach(view: SelfTestView) {
        this.view = view
        view.showRunning(summary == null)
        rows.forEach(view::showRow)
        summary?.let(view::showSummary)
    }

    fun detach() {
        view = null
    }

    /** Ends the test: the engine is needed for something else. */
    fun stop() = stop.request()

    /** Runs everything; the engine of the chat must have been released, since memory holds one. */
    fun start() = threads.background(Lane.ENGINE) {
        val manifest = config.bundle.manifest
        val golden = manifest.golden.filter { it.runtime == config.runtime }
        val cpu = runOn(Device.CPU, golden, golden.map { it.text })
        val isAccelerated = config.runtime in manifest.acceleratedRuntimes
        val accelerator = if (isAccelerated) runOn(Device.ACCELERATOR, golden, cpu.map { it.text }) else null
        threads.main {
            summary = SelfTestSummary(worst(cpu), accelerator?.let(::worst)).also { view?.showSummary(it) }
            view?.showRunning(false)
        }
    }

    private fun runOn(device: Device, golden: List<GoldenText>, expected: List<String>): List<SelfTestRow> {
        val found = ArrayList<SelfTestRow>()
        var failure: String? = null
        var made: Engine? = null
        try {
            made = engines.create(config.runtime)
            made.initialize(config.copy(device = device))
        } catch (error: Exception) {
            failure = error.message ?: "the engine does not load"
        }
        val engine = made
        try {
            for ((prompt, want) in golden.map { it.prompt }.zip(expected)) {
                val row = if (engine == null || failure != null) {
                    SelfTestRow(device, prompt, "", SelfTestVerdict.FAILED, failure.orEmpty())
                } else {
                    compare(device, prompt, want) { text ->
                        engine.reset()
                        engine.run(listOf(Turn(Role.USER, prompt)), Sampling.GREEDY, maxNewTokens, stop) { text.append(it) }
                    }
                }
                found += row
                threads.main {
                    rows += row
                    view?.showRow(row)
                }
            }
        } finally {
            engine?.cleanUp()
        }
        return found
    }

    private fun compare(device: Device, prompt: String, want: String, run: (StringBuilder) -> Unit): SelfTestRow {
        val text = StringBuilder()
        try {
            run(text)
        } catch (error: Exception) {
            return SelfTestRow(device, prompt, "$text", SelfTestVerdict.FAILED, error.message.orEmpty())
        }
        if (stop.isRequested) return SelfTestRow(device, prompt, "$text", SelfTestVerdict.FAILED, "stopped")
        val got = text.toString().trim()
        val same = got.commonPrefixWith(want.trim()).length
        return when {
            got == want.trim() -> SelfTestRow(device, prompt, got, SelfTestVerdict.SAME, "")
            isBroken(got) && !isBroken(want.trim()) -> SelfTestRow(device, prompt, got, SelfTestVerdict.BROKEN, want.trim())
            else -> SelfTestRow(device, prompt, got, SelfTestVerdict.DIFFERS, "from character ${same + 1} on: ${want.trim()}")
        }
    }

    private fun worst(rows: List<SelfTestRow>): SelfTestVerdict =
        rows.maxOfOrNull { it.verdict } ?: SelfTestVerdict.FAILED

    companion object {
        private const val MANY = 8
        private const val MOST = 0.9

        /** Nothing, `<pad>`, or a long text of nearly one word. */
        fun isBroken(text: String): Boolean {
            if (text.replace("<pad>", "").isBlank()) return true
            val words = text.split(Regex("\\s+"))
            val commonest = words.groupingBy { it }.eachCount().values.max()
            val letters = text.groupingBy { it }.eachCount().values.max()
            return words.size >= MANY && commonest >= MOST * words.size || text.length >= 2 * MANY && letters >= MOST * text.length
        }
    }
}
