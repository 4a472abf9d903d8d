package org.g3n.app

import android.Manifest
import android.app.Activity
import android.app.AlertDialog
import android.content.Intent
import android.content.pm.PackageManager
import android.os.Bundle
import android.os.Debug
import android.text.Editable
import android.text.TextWatcher
import android.view.Menu
import android.view.MenuItem
import android.view.View
import android.widget.Button
import android.widget.EditText
import android.widget.ListView
import android.widget.TextView
import org.g3n.core.bundle.Modality
import org.g3n.core.chat.Attachment
import org.g3n.core.chat.Turn
import org.g3n.core.chat.WaveFile
import org.g3n.core.engine.Finish
import org.g3n.core.ui.ChatPresenter
import org.g3n.core.ui.ChatView
import org.g3n.core.ui.Stats
import java.io.File

/** The conversation with the loaded bundle. */
class ChatActivity : Activity(), ChatView {
    private lateinit var presenter: ChatPresenter
    private val attachments by lazy { AttachmentStore(this) }
    private val turns by lazy { TurnAdapter(this) }
    private val draft: EditText by lazy { view(R.id.draft) }
    private val status: TextView by lazy { view(R.id.status) }
    private val send: Button by lazy { view(R.id.send) }
    private val recordStop: Button by lazy { view(R.id.record_stop) }
    private var recorder: SoundRecorder? = null
    private var isRunning = false

    override fun onCreate(savedInstanceState: Bundle?) {
        super.onCreate(savedInstanceState)
        val loaded = g3n.chat
        if (loaded == null) {
            // The process was ended and the engine with it; the conversation is kept.
            startActivity(Intent(this, LoadActivity::class.java))
            finish()
            return
        }
        presenter = loaded
        setContentView(R.layout.activity_chat)
        view<ListView>(R.id.turns).adapter = turns
        draft.addTextChangedListener(Watcher())
        send.setOnClickListener { if (isRunning) presenter.stop() else presenter.send() }
        view<Button>(R.id.retry).setOnClickListener { presenter.retry() }
        recordStop.setOnClickListener { recorder?.stop() }
        val attach = view<Button>(R.id.attach)
        attach.setOnClickListener { showAttachMenu() }
        attach.visibility = if (presenter.modalities.size > 1) View.VISIBLE else View.GONE
    }

    override fun onStart() {
        super.onStart()
        if (::presenter.isInitialized) presenter.attach(this)
    }

    override fun onStop() {
        recorder?.stop()
        if (::presenter.isInitialized) presenter.detach()
        super.onStop()
    }

    override fun onCreateOptionsMenu(menu: Menu): Boolean {
        menu.add(Menu.NONE, MENU_RESET, Menu.NONE, R.string.chat_reset)
        return true
    }

    override fun onOptionsItemSelected(item: MenuItem): Boolean = when (item.itemId) {
        MENU_RESET -> {
            presenter.reset()
            status.text = ""
            true
        }
        android.R.id.home -> {
            finish()
            true
        }
        else -> super.onOptionsItemSelected(item)
    }

    private fun showAttachMenu() {
        val choices = ArrayList<Pair<Int, () -> Unit>>()
        if (Modality.VISION in presenter.modalities) {
            choices += R.string.chat_picture to { startActivityForResult(attachments.galleryIntent(), GALLERY) }
            choices += R.string.chat_camera to { startActivityForResult(attachments.cameraIntent(), CAMERA) }
        }
        if (Modality.AUDIO in presenter.modalities) choices += R.string.chat_record to { askAndRecord() }
        choices += R.string.chat_remove to { presenter.removeAttachments() }
        AlertDialog.Builder(this)
            .setTitle(R.string.chat_attach)
            .setItems(Array(choices.size) { getString(choices[it].first) }) { _, which -> choices[which].second() }
            .show()
    }

    override fun onActivityResult(requestCode: Int, resultCode: Int, data: Intent?) {
        if (resultCode != RESULT_OK) return
        val picture = when (requestCode) {
            GALLERY -> attachments.fromGallery(data)
            CAMERA -> attachments.fromCamera(data)
            else -> null
        }
        picture?.let { presenter.add(Attachment(Attachment.Kind.IMAGE, it.path)) }
    }

    private fun askAndRecord() {
        if (checkSelfPermission(Manifest.permission.RECORD_AUDIO) == PackageManager.PERMISSION_GRANTED) return record()
        requestPermissions(arrayOf(Manifest.permission.RECORD_AUDIO), RECORD)
    }

    override fun onRequestPermissionsResult(requestCode: Int, permissions: Array<out String>, grantResults: IntArray) {
        if (requestCode != RECORD) return
        if (grantResults.firstOrNull() == PackageManager.PERMISSION_GRANTED) record() else status.setText(R.string.chat_no_microphone)
    }

    private fun record() {
        if (recorder != null) return
        recordStop.visibility = View.VISIBLE
        recordStop.text = getString(R.string.chat_record_stop, WaveFile.MAX_SECONDS)
        recorder = SoundRecorder(attachments.newSound()) { file -> runOnUiThread { onRecorded(file) } }.also { it.start() }
    }

    private fun onRecorded(file: File?) {
        recorder = null
        recordStop.visibility = View.GONE
        if (file == null) {
            status.setText(R.string.chat_no_microphone)
        } else {
            if (attachments.seconds(file) >= WaveFile.MAX_SECONDS) {
                status.text = getString(R.string.chat_record_limit, WaveFile.MAX_SECONDS)
            }
            presenter.add(Attachment(Attachment.Kind.SOUND, file.path))
        }
    }

    override fun showTurns(turns: List<Turn>) = this.turns.show(turns)

    override fun showAnswer(text: String) = turns.grow(text)

    override fun showDraft(text: String) {
        if (draft.text.toString() != text) draft.setText(text)
    }

    override fun showAttachments(attachments: List<Attachment>) {
        val count = attachments.size
        status.text = if (count == 0) "" else resources.getQuantityString(R.plurals.chat_attached, count, count)
    }

    override fun showState(isRunning: Boolean, canRetry: Boolean) {
        this.isRunning = isRunning
        send.setText(if (isRunning) R.string.chat_stop else R.string.chat_send)
        view<View>(R.id.retry).visibility = if (canRetry) View.VISIBLE else View.GONE
    }

    override fun showStats(stats: Stats) {
        val memory = Texts.bytes(this, Debug.getPss() * KIB)
        status.text = when (val rate = stats.tokensPerSecond) {
            null -> getString(R.string.chat_stats_short, stats.firstTokenSeconds, memory)
            else -> getString(R.string.chat_stats, stats.firstTokenSeconds, rate, memory)
        }
    }

    override fun showFinish(finish: Finish) = when (finish) {
        Finish.CONTEXT_FULL -> status.setText(R.string.chat_context_full)
        Finish.LENGTH -> status.setText(R.string.chat_length)
        Finish.END_OF_TURN, Finish.STOPPED -> Unit
    }

    override fun showError(error: Throwable) = showErrorDialog(error)

    private inner class Watcher : TextWatcher {
        override fun beforeTextChanged(text: CharSequence?, start: Int, count: Int, after: Int) = Unit

        override fun onTextChanged(text: CharSequence?, start: Int, before: Int, count: Int) = Unit

        override fun afterTextChanged(text: Editable?) = presenter.edit(text.toString())
    }

    private companion object {
        const val MENU_RESET = 1
        const val GALLERY = 1
        const val CAMERA = 2
        const val RECORD = 3
        const val KIB = 1024L
    }
}
