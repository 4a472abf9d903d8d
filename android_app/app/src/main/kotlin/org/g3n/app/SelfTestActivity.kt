package org.g3n.app

import android.app.Activity
import android.os.Bundle
import android.view.View
import android.widget.Button
import android.widget.TextView
import org.g3n.core.bundle.Device
import org.g3n.core.bundle.Runtime
import org.g3n.core.ui.SelfTestPresenter
import org.g3n.core.ui.SelfTestRow
import org.g3n.core.ui.SelfTestSummary
import org.g3n.core.ui.SelfTestVerdict
import org.g3n.core.ui.SelfTestView

/** Golden prompts of the checked bundle on the CPU and the accelerator, side by side. */
class SelfTestActivity : Activity(), SelfTestView {
    private val results: TextView by lazy { view(R.id.results) }
    private val runtime: Runtime? get() = intent.getStringExtra(RUNTIME)?.let(Runtime::of)

    override fun onCreate(savedInstanceState: Bundle?) {
        super.onCreate(savedInstanceState)
        setContentView(R.layout.activity_self_test)
        view<Button>(R.id.run).setOnClickListener { start() }
    }

    override fun onStart() {
        super.onStart()
        results.text = ""
        g3n.selfTest?.takeIf { it.config.runtime == runtime && it.config.bundle === g3n.loader.bundle }?.attach(this)
    }

    override fun onStop() {
        g3n.selfTest?.detach()
        super.onStop()
    }

    private fun start() {
        val config = runtime?.let { g3n.loader.config(it, Device.CPU) } ?: return finish()
        results.text = ""
        g3n.selfTest?.stop()
        // Memory holds one engine: the chat's is freed first, its conversation is kept.
        g3n.loader.release()
        g3n.selfTest = SelfTestPresenter(g3n.engines, config, g3n.threads).also {
            it.attach(this)
            it.start()
        }
    }

    override fun showRunning(isRunning: Boolean) {
        view<View>(R.id.run).isEnabled = !isRunning
        view<View>(R.id.running).visibility = if (isRunning) View.VISIBLE else View.GONE
    }

    override fun showRow(row: SelfTestRow) {
        val verdict = verdict(row.verdict, row.detail)
        append(getString(R.string.self_test_row, Texts.device(this, row.device), row.prompt, row.text, verdict))
    }

    override fun showSummary(summary: SelfTestSummary) {
        val second = summary.accelerator?.let { verdict(it, "") } ?: getString(R.string.self_test_none)
        append(getString(R.string.self_test_summary, verdict(summary.cpu, ""), second))
    }

    private fun verdict(verdict: SelfTestVerdict, detail: String): String = when (verdict) {
        SelfTestVerdict.SAME -> getString(R.string.self_test_same)
        SelfTestVerdict.DIFFERS -> getString(R.string.self_test_differs, detail)
        SelfTestVerdict.BROKEN -> getString(R.string.self_test_broken)
        SelfTestVerdict.FAILED -> getString(R.string.self_test_failed, detail)
    }

    private fun append(text: String) {
        results.append(if (results.text.isEmpty()) text else "\n\n" + text)
    }

    companion object {
        const val RUNTIME = "runtime"
    }
}
