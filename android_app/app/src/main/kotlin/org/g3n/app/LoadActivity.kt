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
import org.g3n.core.bundle.Device
import org.g3n.core.bundle.Origin
import org.g3n.core.bundle.Progress
import org.g3n.core.device.Verdict
import org.g3n.core.ui.Busy
import org.g3n.core.ui.Choice
import org.g3n.core.ui.LoadOption
import org.g3n.core.ui.LoadView
import org.g3n.core.ui.Prepared
import java.io.File

/** Choose a bundle, see whether it fits, load it. The presenter keeps all that is shown; a turned screen asks it again. */
class LoadActivity : Activity(), LoadView {
    private val loader get() = g3n.loader
    private val runtimes: Spinner by lazy { view(R.id.runtime) }
    private val devices: Spinner by lazy { view(R.id.device) }
    private val sizes: Spinner by lazy { view(R.id.size) }
    private val dialogs = Dialogs(this)
    private var prepared: Prepared? = null
    private var busy: Busy? = null
    private var announced = ""

    /** The question that is open: it is asked again after rotation. */
    private var question: String? = null

    private val choice: Choice? get() = prepared?.choice
    private val option: LoadOption? get() = prepared?.let { shown -> shown.options.first { it.runtime == shown.choice.runtime } }

    override fun onCreate(savedInstanceState: Bundle?) {
        super.onCreate(savedInstanceState)
        setContentView(R.layout.activity_load)
        view<Button>(R.id.pick).setOnClickListener { startOrTell(Intent(Intent.ACTION_OPEN_DOCUMENT_TREE), PICK) }
        view<Button>(R.id.resume).setOnClickListener { openChat() }
        view<Button>(R.id.cancel).setOnClickListener { loader.cancel() }
        view<Button>(R.id.load).setOnClickListener { confirmAndLoad() }
        view<Button>(R.id.self_test).setOnClickListener { selfTest() }
        view<Button>(R.id.check_again).setOnClickListener {
            loader.bundle?.let { loader.open(it.directory, isHashedAnew = true) }
        }
        view<View>(R.id.no_engines).visibility = if (g3n.engines.runtimes.isEmpty()) View.VISIBLE else View.GONE
        question = savedInstanceState?.getString(QUESTION)
        if (savedInstanceState == null) loader.restore()
    }

    override fun onStart() {
        super.onStart()
        loader.attach(this)
        loader.refresh()
        when (question) {
            CONFIRM_LOAD -> confirmAndLoad()
            CONFIRM_KEY -> (prepared?.origin as? Origin.Signed)?.let { confirmKey(it.fingerprint) }
        }
    }

    override fun onStop() {
        loader.detach()
        dialogs.close()
        super.onStop()
    }

    override fun onSaveInstanceState(outState: Bundle) {
        super.onSaveInstanceState(outState)
        outState.putString(QUESTION, question)
    }

    override fun onActivityResult(requestCode: Int, resultCode: Int, data: Intent?) {
        val tree = data?.data
        if (requestCode == PICK && resultCode == RESULT_OK && tree != null) {
            loader.copyAndOpen(FolderSource(contentResolver, tree), g3n.importFolder)
        }
    }

    override fun showBundles(bundles: List<File>) {
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
        showEnabled()
    }

    override fun showBusy(busy: Busy?) {
        this.busy = busy
        when (busy) {
            is Busy.Copying -> showProgress(Texts.sentence(this, R.string.load_copying, busy.progress.percent), busy.progress)
            is Busy.Checking -> {
                val name = Texts.isolated(this, busy.name)
                showProgress(Texts.sentence(this, R.string.load_checking, name, busy.progress.percent), busy.progress)
            }
            is Busy.Loading -> {
                val device = Texts.device(this, busy.device)
                showProgress(getString(R.string.load_loading, Texts.runtime(busy.runtime), device), null)
            }
            null -> announced = ""
        }
        view<View>(R.id.busy).visibility = if (busy == null) View.GONE else View.VISIBLE
        showEnabled()
    }

    private fun showProgress(text: String, progress: Progress?) {
        view<TextView>(R.id.busy_text).text = text
        view<ProgressBar>(R.id.busy_bar).apply {
            isIndeterminate = progress == null
            this.progress = progress?.percent ?: 0
        }
        view<View>(R.id.cancel).visibility = if (progress == null) View.GONE else View.VISIBLE
        // Every quarter is enough for the ear.
        val quarter = "${busy?.javaClass?.simpleName} ${progress?.let { it.percent / QUARTER }}"
        if (quarter != announced) view<View>(R.id.busy).announceForAccessibility(text)
        announced = quarter
    }

    /** While an engine loads there is nothing else to be begun. */
    private fun showEnabled() {
        val isFree = busy !is Busy.Loading
        val list = view<LinearLayout>(R.id.bundles)
        for (i in 0 until list.childCount) list.getChildAt(i).isEnabled = isFree
        view<View>(R.id.pick).isEnabled = isFree
        view<View>(R.id.ready).visibility = if (prepared != null && busy == null) View.VISIBLE else View.GONE
    }

    override fun showPrepared(prepared: Prepared?) {
        this.prepared = prepared
        showEnabled()
        if (prepared == null) return
        val manifest = prepared.bundle.manifest
        val modalities = manifest.modalities.joinToString { it.id }
        val name = Texts.isolated(this, manifest.name)
        val lines = arrayListOf(
            Texts.sentence(
                this, R.string.load_summary, name, manifest.modelSize, manifest.recipe, modalities, manifest.context,
            ),
        )
        if (prepared.wasHashed) lines += getString(R.string.load_was_hashed)
        if (!manifest.parityPassed) lines += getString(R.string.parity_failed)
        view<TextView>(R.id.summary).text = lines.joinToString("\n")
        view<View>(R.id.check_again).visibility = if (prepared.wasHashed) View.VISIBLE else View.GONE
        showOrigin(prepared.origin, prepared.isAccepted)
        val options = prepared.options
        fill(runtimes, options.map { Texts.runtime(it.runtime) }, options.indexOf(option)) { position ->
            val chosen = options[position]
            if (chosen.runtime != choice?.runtime) choose(Choice(chosen.runtime, chosen.devices.first(), chosen.size?.name))
        }
        showOption()
    }

    private fun showOrigin(origin: Origin, isAccepted: Boolean) {
        view<TextView>(R.id.origin).text = Texts.origin(this, origin, isAccepted)
        view<Button>(R.id.accept_key).apply {
            visibility = if (origin is Origin.Signed && !isAccepted) View.VISIBLE else View.GONE
            setOnClickListener { if (origin is Origin.Signed) confirmKey(origin.fingerprint) }
        }
    }

    private fun confirmKey(fingerprint: String) = ask(
        CONFIRM_KEY,
        AlertDialog.Builder(this)
            .setTitle(R.string.origin_accept_title)
            .setMessage(getString(R.string.origin_accept_message, Texts.fingerprint(this, fingerprint))),
        R.string.origin_accept,
    ) { loader.acceptKey(fingerprint) }

    private fun showOption() {
        val option = option ?: return
        val choice = choice ?: return
        fill(devices, option.devices.map { Texts.device(this, it) }, option.devices.indexOf(choice.device)) { position ->
            choose(choice().copy(device = option.devices[position]))
        }
        val names = option.sizes.map { it.name }
        fill(sizes, names, names.indexOf(choice.size)) { position -> choose(choice().copy(size = names[position])) }
        // With one size there is nothing to choose.
        for (id in listOf(R.id.size, R.id.size_label)) view<View>(id).visibility = if (names.size > 1) View.VISIBLE else View.GONE
        val own = prepared?.bundle?.manifest?.context ?: return
        val shortened = Texts.sentence(this, R.string.fit_context, option.context, own).takeIf { option.context < own }
        view<TextView>(R.id.fit).text = listOfNotNull(Texts.fit(this, option.fit), shortened).joinToString("\n")
    }

    private fun choice(): Choice = checkNotNull(choice)

    private fun choose(new: Choice) {
        val old = choice
        if (new == old) return
        loader.choose(new)
        prepared = prepared?.copy(choice = new)
        if (new.runtime != old?.runtime) showOption()
    }

    private fun fill(spinner: Spinner, names: List<String>, selected: Int, onSelected: (Int) -> Unit) {
        spinner.onItemSelectedListener = null
        spinner.adapter = ArrayAdapter(this, android.R.layout.simple_spinner_item, names).apply {
            setDropDownViewResource(android.R.layout.simple_spinner_dropdown_item)
        }
        spinner.setSelection(maxOf(0, selected))
        spinner.onItemSelectedListener = object : AdapterView.OnItemSelectedListener {
            override fun onItemSelected(parent: AdapterView<*>?, view: View?, position: Int, id: Long) = onSelected(position)

            override fun onNothingSelected(parent: AdapterView<*>?) = Unit
        }
    }

    private fun confirmAndLoad() {
        val fit = option?.fit ?: return
        if (fit.verdict != Verdict.TOO_SMALL) return load()
        ask(
            CONFIRM_LOAD,
            AlertDialog.Builder(this).setTitle(R.string.fit_confirm_title).setMessage(Texts.fit(this, fit)),
            R.string.fit_confirm_yes,
            ::load,
        )
    }

    private fun ask(name: String, dialog: AlertDialog.Builder, yes: Int, onYes: () -> Unit) {
        question = name
        dialogs.show(dialog, yes, onYes, R.string.cancel) { question = null }
    }

    private fun load() {
        g3n.selfTest?.stop()
        loader.load()
    }

    private fun selfTest() {
        val runtime = choice?.runtime ?: return
        startActivity(Intent(this, SelfTestActivity::class.java).putExtra(SelfTestActivity.RUNTIME, runtime.id))
    }

    override fun showResume(isPossible: Boolean) {
        view<View>(R.id.resume).visibility = if (isPossible) View.VISIBLE else View.GONE
    }

    override fun openChat() = startActivity(Intent(this, ChatActivity::class.java))

    override fun offerCpu(reason: String) {
        val dialog = AlertDialog.Builder(this).setTitle(R.string.cpu_offer_title).setMessage(reason)
        dialogs.show(dialog, R.string.cpu_offer_yes, { loader.answerOffer(useCpu = true) }, R.string.cancel) {
            loader.answerOffer(useCpu = false)
        }
    }

    override fun showError(error: Throwable) = dialogs.show(error) { loader.errorSeen() }

    private companion object {
        const val PICK = 1
        const val QUARTER = 25
        const val QUESTION = "question"
        const val CONFIRM_LOAD = "load"
        const val CONFIRM_KEY = "key"
    }
}
