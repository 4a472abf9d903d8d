package org.g3n.core.ui

import org.g3n.core.bundle.Device
import org.g3n.core.bundle.GoldenText
import org.g3n.core.bundle.Sampling
import org.g3n.core.chat.Role
import org.g3n.core.chat.Turn
import org.g3n.core.engine.ContextFull
import org.g3n.core.engine.EngineConfig
import org.g3n.core.engine.EngineException
import org.g3n.core.engine.EngineFactory

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
    fun showRow(row: SelfTestRow)

    /** All is run; [accelerator] sums up the accelerator's rows, `null` where the bundle has none for it. */
    fun showSummary(cpu: SelfTestVerdict, accelerator: SelfTestVerdict?)
}

/** Runs the bundle's golden prompts greedily on the CPU and the accelerator: some GPUs corrupt results in silence. */
class SelfTestPresenter(
    private val engines: EngineFactory,
    private val config: EngineConfig,
    private val threads: Threads,
    private val maxNewTokens: Int = 24,
) {
    private var view: SelfTestView? = null

    fun attach(view: SelfTestView) {
        this.view = view
    }

    fun detach() {
        view = null
    }

    /** Runs everything; the engine of the chat must have been released, since memory holds one. */
    fun start() = threads.background {
        val manifest = config.bundle.manifest
        val golden = manifest.golden.filter { it.runtime == config.runtime }
        val cpu = runOn(Device.CPU, golden, golden.map { it.text })
        val accelerated = config.runtime in manifest.acceleratedRuntimes
        val accelerator = if (accelerated) runOn(Device.ACCELERATOR, golden, cpu.map { it.text }) else null
        threads.main { view?.showSummary(worst(cpu), accelerator?.let(::worst)) }
    }

    private fun runOn(device: Device, golden: List<GoldenText>, expected: List<String>): List<SelfTestRow> {
        val rows = ArrayList<SelfTestRow>()
        var failure: String? = null
        val engine = try {
            engines.create(config.runtime).also { it.initialize(config.copy(device = device)) }
        } catch (error: EngineException) {
            failure = error.message ?: "the engine does not load"
            null
        }
        try {
            for ((prompt, want) in golden.map { it.prompt }.zip(expected)) {
                val row = when (engine) {
                    null -> SelfTestRow(device, prompt, "", SelfTestVerdict.FAILED, failure.orEmpty())
                    else -> compare(device, prompt, want) { text ->
                        engine.reset()
                        engine.run(listOf(Turn(Role.USER, prompt)), Sampling.GREEDY, maxNewTokens) { text.append(it) }
                    }
                }
                rows += row
                threads.main { view?.showRow(row) }
            }
        } finally {
            engine?.cleanUp()
        }
        return rows
    }

    private fun compare(device: Device, prompt: String, want: String, run: (StringBuilder) -> Unit): SelfTestRow {
        val text = StringBuilder()
        try {
            run(text)
        } catch (error: EngineException) {
            return SelfTestRow(device, prompt, "$text", SelfTestVerdict.FAILED, error.message.orEmpty())
        } catch (error: ContextFull) {
            return SelfTestRow(device, prompt, "$text", SelfTestVerdict.FAILED, error.message.orEmpty())
        }
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
