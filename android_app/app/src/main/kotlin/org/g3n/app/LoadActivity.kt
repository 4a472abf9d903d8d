package org.g3n.app

import android.app.Activity
import android.app.AlertDialog
import android.content.Intent
import android.os.Bundle
import android.view.View
import android.widget.AdapterView
import android.widget.ArrayAdapter
import android.widget.Button
import android.widget.LinearLayout
import android.widget.ProgressBar
import android.widget.Spinner
import android.widget.TextView
import org.g3n.core.bundle.BundleSize
import org.g3n.core.bundle.Device
import org.g3n.core.bundle.Origin
import org.g3n.core.bundle.Progress
import org.g3n.core.bundle.Runtime
import org.g3n.core.device.Verdict
import org.g3n.core.engine.EngineConfig
import org.g3n.core.ui.ChatPresenter
import org.g3n.core.ui.LoadOption
import org.g3n.core.ui.LoadView
import java.io.File
import org.g3n.core.bundle.Bundle as ModelBundle

/** Choose a bundle, see whether it fits, load it. */
class LoadActivity : Activity(), LoadView {
    private val loader get() = g3n.loader
    private val busy: View by lazy { view(R.id.busy) }
    private val ready: View by lazy { view(R.id.ready) }
    private val runtimes: Spinner by lazy { view(R.id.runtime) }
    private val devices: Spinner by lazy { view(R.id.device) }
    private val sizes: Spinner by lazy { view(R.id.size) }
    private var options: List<LoadOption> = emptyList()

    private val chosen: LoadOption get() = options[maxOf(0, runtimes.selectedItemPosition)]
    private val chosenDevice: Device get() = chosen.devices[maxOf(0, devices.selectedItemPosition)]
    private val chosenSize: String? get() = sizes.selectedItem as String?

    override fun onCreate(savedInstanceState: Bundle?) {
        super.onCreate(savedInstanceState)
        setContentView(R.layout.activity_load)
        view<Button>(R.id.pick).setOnClickListener { startActivityForResult(Intent(Intent.ACTION_OPEN_DOCUMENT_TREE), PICK) }
        view<Button>(R.id.cancel).setOnClickListener { loader.cancel() }
        view<Button>(R.id.load).setOnClickListener { confirmAndLoad() }
        view<Button>(R.id.self_test).setOnClickListener { selfTest() }
        loader.attach(this)
        loader.refresh()
        if (Engines.available.isEmpty()) showErrorDialog(IllegalStateException(getString(R.string.no_engines)))
        // After the end of the process the bundle of the conversation is opened again; loading it is up to the user.
        if (savedInstanceState == null) g3n.session.load()?.let { loader.open(File(it.bundlePath)) }
    }

    override fun onDestroy() {
        loader.detach()
        super.onDestroy()
    }

    override fun onActivityResult(requestCode: Int, resultCode: Int, data: Intent?) {
        val tree = data?.data
        if (requestCode == PICK && resultCode == RESULT_OK && tree != null) {
            loader.copyAndOpen(FolderSource(contentResolver, tree), g3n.importFolder)
        }
    }

    override fun showBundles(bundles: List<File>) {
        busy.visibility = View.GONE
        val list = view<LinearLayout>(R.id.bundles)
        list.removeAllViews()
        if (bundles.isEmpty()) list.addView(TextView(this).apply { setText(R.string.load_none) })
        for (folder in bundles) {
            list.addView(
                Button(this).apply {
                    text = folder.name
                    setAllCaps(false)
                    setOnClickListener { loader.open(folder) }
                },
            )
        }
    }

    override fun showCopying(progress: Progress) = showBusy(getString(R.string.load_copying, progress.percent), progress)

    override fun showChecking(name: String, progress: Progress) =
        showBusy(getString(R.string.load_checking, name, progress.percent), progress)

    override fun showLoading(runtime: Runtime, device: Device) =
        showBusy(getString(R.string.load_loading, Texts.runtime(runtime), Texts.device(this, device)), null)

    private fun showBusy(text: String, progress: Progress?) {
        busy.visibility = View.VISIBLE
        ready.visibility = View.GONE
        view<TextView>(R.id.busy_text).text = text
        view<ProgressBar>(R.id.busy_bar).apply {
            isIndeterminate = progress == null
            this.progress = progress?.percent ?: 0
        }
        view<View>(R.id.cancel).visibility = if (progress == null) View.GONE else View.VISIBLE
    }

    override fun showReady(bundle: ModelBundle, options: List<LoadOption>, size: BundleSize?) {
        busy.visibility = View.GONE
        ready.visibility = View.VISIBLE
        this.options = options
        val manifest = bundle.manifest
        val modalities = manifest.modalities.joinToString { it.id }
        val summary = getString(
            R.string.load_summary, manifest.name, manifest.modelSize, manifest.recipe, modalities, manifest.context,
        )
        val warning = if (manifest.parityPassed) "" else "\n" + getString(R.string.parity_failed)
        view<TextView>(R.id.summary).text = summary + warning
        fill(runtimes, options.map { Texts.runtime(it.runtime) }) { showOption() }
        val names = manifest.sizes.map { it.name }
        fill(sizes, names) {}
        sizes.setSelection(maxOf(0, names.indexOf(size?.name)))
        for (id in listOf(R.id.size, R.id.size_label)) view<View>(id).visibility = if (names.isEmpty()) View.GONE else View.VISIBLE
        showOption()
    }

    override fun showOrigin(origin: Origin, accepted: Boolean) {
        view<TextView>(R.id.origin).text = Texts.origin(this, origin, accepted)
        view<Button>(R.id.accept_key).apply {
            visibility = if (origin is Origin.Signed && !accepted) View.VISIBLE else View.GONE
            setOnClickListener { if (origin is Origin.Signed) confirmKey(origin.fingerprint) }
        }
    }

    private fun confirmKey(fingerprint: String) {
        AlertDialog.Builder(this)
            .setTitle(R.string.origin_accept_title)
            .setMessage(getString(R.string.origin_accept_message, fingerprint))
            .setPositiveButton(R.string.origin_accept) { _, _ -> loader.acceptKey(fingerprint) }
            .setNegativeButton(R.string.cancel, null)
            .show()
    }

    private fun showOption() {
        fill(devices, chosen.devices.map { Texts.device(this, it) }) {}
        view<TextView>(R.id.fit).text = Texts.fit(this, chosen.fit)
    }

    private fun fill(spinner: Spinner, names: List<String>, onSelected: () -> Unit) {
        spinner.onItemSelectedListener = null
        spinner.adapter = ArrayAdapter(this, android.R.layout.simple_spinner_item, names).apply {
            setDropDownViewResource(android.R.layout.simple_spinner_dropdown_item)
        }
        spinner.onItemSelectedListener = object : AdapterView.OnItemSelectedListener {
            override fun onItemSelected(parent: AdapterView<*>?, view: View?, position: Int, id: Long) = onSelected()

            override fun onNothingSelected(parent: AdapterView<*>?) = Unit
        }
    }

    private fun confirmAndLoad() {
        if (options.isEmpty()) return
        if (chosen.fit.verdict != Verdict.TOO_SMALL) return load()
        AlertDialog.Builder(this)
            .setTitle(R.string.fit_confirm_title)
            .setMessage(Texts.fit(this, chosen.fit))
            .setPositiveButton(R.string.fit_confirm_yes) { _, _ -> load() }
            .setNegativeButton(R.string.cancel, null)
            .show()
    }

    private fun load() = loader.load(chosen.runtime, chosenDevice, chosenSize)

    private fun selfTest() {
        if (options.isEmpty()) return
        val intent = Intent(this, SelfTestActivity::class.java)
        startActivity(intent.putExtra(SelfTestActivity.RUNTIME, chosen.runtime.id))
    }

    override fun showLoaded(config: EngineConfig) {
        busy.visibility = View.GONE
        ready.visibility = View.VISIBLE
        val engine = loader.engine ?: return
        g3n.chat = ChatPresenter(engine, config, g3n.session, g3n.threads, System::nanoTime)
        startActivity(Intent(this, ChatActivity::class.java))
    }

    override fun offerCpu(reason: String) {
        busy.visibility = View.GONE
        ready.visibility = View.VISIBLE
        AlertDialog.Builder(this)
            .setTitle(R.string.cpu_offer_title)
            .setMessage(reason)
            .setPositiveButton(R.string.cpu_offer_yes) { _, _ -> loader.loadOnCpu() }
            .setNegativeButton(R.string.cancel, null)
            .show()
    }

    override fun showError(error: Throwable) {
        busy.visibility = View.GONE
        showErrorDialog(error)
    }

    private companion object {
        const val PICK = 1
    }
}
