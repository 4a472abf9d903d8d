package org.g3n.app

import android.app.Activity
import android.os.Bundle
import android.view.View
import android.widget.Button
import android.widget.TextView
import org.g3n.core.bundle.Device
import org.g3n.core.bundle.Runtime
import org.g3n.core.engine.EngineConfig
import org.g3n.core.ui.SelfTestPresenter
import org.g3n.core.ui.SelfTestRow
import org.g3n.core.ui.SelfTestVerdict
import org.g3n.core.ui.SelfTestView

/** Golden prompts of the checked bundle on the CPU and the accelerator, side by side. */
class SelfTestActivity : Activity(), SelfTestView {
    private val results: TextView by lazy { view(R.id.results) }
    private var presenter: SelfTestPresenter? = null

    override fun onCreate(savedInstanceState: Bundle?) {
        super.onCreate(savedInstanceState)
        setContentView(R.layout.activity_self_test)
        view<Button>(R.id.run).setOnClickListener { start() }
        results.text = savedInstanceState?.getCharSequence(RESULTS)
    }

    private fun start() {
        val bundle = g3n.loader.bundle ?: return finish()
        val runtime = Runtime.of(checkNotNull(intent.getStringExtra(RUNTIME)))
        view<View>(R.id.run).isEnabled = false
        results.setText(R.string.self_test_running)
        // Memory holds one engine: the chat's is freed first, its conversation is kept.
        g3n.chat = null
        g3n.loader.release()
        val config = EngineConfig(bundle, runtime, Device.CPU, THREADS, cacheDir)
        presenter = SelfTestPresenter(Engines, config, g3n.threads).also {
            it.attach(this)
            it.start()
        }
    }

    override fun onSaveInstanceState(outState: Bundle) {
        super.onSaveInstanceState(outState)
        outState.putCharSequence(RESULTS, results.text)
    }

    override fun onDestroy() {
        presenter?.detach()
        super.onDestroy()
    }

    override fun showRow(row: SelfTestRow) {
        val verdict = verdict(row.verdict, row.detail)
        append(getString(R.string.self_test_row, Texts.device(this, row.device), row.prompt, row.text, verdict))
    }

    override fun showSummary(cpu: SelfTestVerdict, accelerator: SelfTestVerdict?) {
        view<View>(R.id.run).isEnabled = true
        val second = accelerator?.let { verdict(it, "") } ?: getString(R.string.self_test_none)
        append(getString(R.string.self_test_summary, verdict(cpu, ""), second))
    }

    private fun verdict(verdict: SelfTestVerdict, detail: String): String = when (verdict) {
        SelfTestVerdict.SAME -> getString(R.string.self_test_same)
        SelfTestVerdict.DIFFERS -> getString(R.string.self_test_differs, detail)
        SelfTestVerdict.BROKEN -> getString(R.string.self_test_broken)
        SelfTestVerdict.FAILED -> getString(R.string.self_test_failed, detail)
    }

    private fun append(text: String) {
        results.append("\n\n" + text)
    }

    companion object {
        const val RUNTIME = "runtime"
        private const val RESULTS = "results"
        private const val THREADS = 4
    }
}
