package org.g3n.app

import android.Manifest
import android.app.Activity
import android.app.AlertDialog
import android.content.Intent
import android.content.pm.PackageManager
import android.os.Bundle
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
import org.g3n.core.engine.Notice
import org.g3n.core.ui.AnswerEnd
import org.g3n.core.ui.ChatPresenter
import org.g3n.core.ui.ChatView
import org.g3n.core.ui.Lane
import org.g3n.core.ui.Stats
import java.io.File
import java.io.IOException

/** The conversation with the loaded bundle. The presenter keeps all that is shown; a turned screen asks it again. */
class ChatActivity : Activity(), ChatView {
    private var presenter: ChatPresenter? = null
    private val store by lazy { AttachmentStore(g3n.attachments, contentResolver) }
    private val turns by lazy { TurnAdapter(this) }
    private val draft: EditText by lazy { view(R.id.draft) }
    private val status: TextView by lazy { view(R.id.status) }
    private val send: Button by lazy { view(R.id.send) }
    private val recordStop: Button by lazy { view(R.id.record_stop) }
    private val dialogs = Dialogs(this)
    private var recorder: SoundRecorder? = null
    private var isRunning = false
    private var notice: Notice? = null

    /** Where the camera app writes, while it is open. */
    private var photo: File? = null

    override fun onCreate(savedInstanceState: Bundle?) {
        super.onCreate(savedInstanceState)
        photo = savedInstanceState?.getString(PHOTO)?.let(::File)
        val loaded = g3n.loader.chat ?: return leave()
        presenter = loaded
        setContentView(R.layout.activity_chat)
        view<ListView>(R.id.turns).adapter = turns
        draft.addTextChangedListener(Watcher(loaded))
        send.setOnClickListener { if (isRunning) loaded.stop() else loaded.send() }
        view<Button>(R.id.retry).setOnClickListener { loaded.retry() }
        recordStop.setOnClickListener { recorder?.stop() }
        val attach = view<Button>(R.id.attach)
        attach.setOnClickListener { showAttachMenu(loaded) }
        attach.visibility = if (loaded.modalities.any { it != Modality.TEXT }) View.VISIBLE else View.GONE
    }

    override fun onStart() {
        super.onStart()
        val shown = presenter ?: return
        // The engine was freed for another bundle, for the self-test, or because the system was short of memory.
        if (shown === g3n.loader.chat) shown.attach(this) else leave()
    }

    override fun onStop() {
        recorder?.stop()
        presenter?.detach()
        dialogs.close()
        super.onStop()
    }

    override fun onSaveInstanceState(outState: Bundle) {
        super.onSaveInstanceState(outState)
        outState.putString(PHOTO, photo?.path)
    }

    /** The engine is gone, perhaps with the process; the conversation is kept, and so is a photo taken meanwhile. */
    private fun leave() {
        photo?.let { keep(it) }
        photo = null
        startActivity(Intent(this, LoadActivity::class.java).addFlags(Intent.FLAG_ACTIVITY_CLEAR_TOP))
        finish()
    }

    private fun keep(taken: File) = g3n.threads.background(Lane.STORAGE) {
        try {
            g3n.keepForLater(Attachment(Attachment.Kind.IMAGE, store.fromCamera(taken).path))
        } catch (_: IOException) {
            // No photo was taken.
        }
    }

    override fun onCreateOptionsMenu(menu: Menu): Boolean {
        menu.add(Menu.NONE, MENU_RESET, Menu.NONE, R.string.chat_reset)
        return true
    }

    override fun onOptionsItemSelected(item: MenuItem): Boolean = when (item.itemId) {
        MENU_RESET -> {
            presenter?.reset()
            true
        }
        android.R.id.home -> {
            finish()
            true
        }
        else -> super.onOptionsItemSelected(item)
    }

    private fun showAttachMenu(loaded: ChatPresenter) {
        val choices = ArrayList<Pair<Int, () -> Unit>>()
        if (Modality.VISION in loaded.modalities) {
            choices += R.string.chat_picture to { startOrTell(store.galleryIntent(), GALLERY) }
            choices += R.string.chat_camera to { takePhoto() }
        }
        if (Modality.AUDIO in loaded.modalities) choices += R.string.chat_record to { askAndRecord() }
        choices += R.string.chat_remove to { loaded.removeAttachments() }
        AlertDialog.Builder(this)
            .setTitle(R.string.chat_attach)
            .setItems(Array(choices.size) { getString(choices[it].first) }) { _, which -> choices[which].second() }
            .show()
    }

    private fun takePhoto() {
        val file = store.newPhoto()
        if (startOrTell(store.cameraIntent(file), CAMERA)) photo = file else file.delete()
    }

    override fun onActivityResult(requestCode: Int, resultCode: Int, data: Intent?) {
        val taken = photo
        if (requestCode == CAMERA) photo = null
        if (resultCode != RESULT_OK) {
            if (requestCode == CAMERA) taken?.delete()
            return
        }
        when (requestCode) {
            GALLERY -> data?.data?.let { uri -> attach { store.fromGallery(uri) } }
            CAMERA -> taken?.let { attach { store.fromCamera(it) } }
        }
    }

    /** Attaches the picture that [read] makes, off the main thread. */
    private fun attach(read: () -> File) {
        val loaded = presenter ?: return
        val threads = g3n.threads
        threads.background(Lane.MEDIA) {
            try {
                val picture = read()
                threads.main { loaded.add(Attachment(Attachment.Kind.IMAGE, picture.path)) }
            } catch (error: IOException) {
                threads.main { loaded.show(error) }
            }
        }
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
        recordStop.text = Texts.sentence(this, R.string.chat_record_stop, WaveFile.MAX_SECONDS)
        val started = SoundRecorder(store.newSound()) { file -> runOnUiThread { onRecorded(file) } }
        recorder = started
        started.start()
    }

    private fun onRecorded(file: File?) {
        recorder = null
        recordStop.visibility = View.GONE
        if (file == null) return status.setText(R.string.chat_record_failed)
        val seconds = store.seconds(file)
        if (seconds < WaveFile.MIN_SECONDS) {
            file.delete()
            return status.setText(R.string.chat_record_short)
        }
        presenter?.add(Attachment(Attachment.Kind.SOUND, file.path))
        if (seconds >= WaveFile.MAX_SECONDS) status.text = Texts.sentence(this, R.string.chat_record_limit, WaveFile.MAX_SECONDS)
    }

    override fun showTurns(turns: List<Turn>, isRunning: Boolean) = this.turns.show(turns, isRunning)

    override fun showAnswer(text: String) = turns.grow(text)

    override fun showDraft(text: String) {
        if (draft.text.toString() != text) draft.setText(text)
    }

    override fun showAttachments(attachments: List<Attachment>) {
        val count = attachments.size
        view<TextView>(R.id.attached).apply {
            visibility = if (count == 0) View.GONE else View.VISIBLE
            text = resources.getQuantityString(R.plurals.chat_attached, count, count)
        }
    }

    override fun showState(isRunning: Boolean, canRetry: Boolean) {
        this.isRunning = isRunning
        send.setText(if (isRunning) R.string.chat_stop else R.string.chat_send)
        view<View>(R.id.retry).visibility = if (canRetry) View.VISIBLE else View.GONE
    }

    override fun showNotice(notice: Notice?) {
        this.notice = notice
    }

    override fun showEnd(end: AnswerEnd?) {
        val loaded = when (notice) {
            Notice.CACHE_OFF -> getString(R.string.chat_cache_off)
            null -> null
        }
        val ended = when (end?.finish) {
            Finish.CONTEXT_FULL -> getString(R.string.chat_context_full)
            Finish.LENGTH -> getString(R.string.chat_length)
            Finish.END_OF_TURN, Finish.STOPPED, null -> null
        }
        status.text = listOfNotNull(loaded, ended, end?.stats?.let(::stats)).joinToString("\n")
    }

    private fun stats(stats: Stats): String {
        val parts = arrayListOf(Texts.sentence(this, R.string.chat_stats_first, stats.firstTokenSeconds))
        stats.tokensPerSecond?.let { parts += Texts.sentence(this, R.string.chat_stats_rate, it) }
        stats.memoryBytes?.let { parts += getString(R.string.chat_stats_memory, Texts.bytes(this, it)) }
        return parts.joinToString()
    }

    override fun announce(answer: String) = draft.announceForAccessibility(getString(R.string.chat_said, answer))

    override fun showError(error: Throwable) = dialogs.show(error) { presenter?.errorSeen() }

    private class Watcher(private val presenter: ChatPresenter) : TextWatcher {
        override fun beforeTextChanged(text: CharSequence?, start: Int, count: Int, after: Int) = Unit

        override fun onTextChanged(text: CharSequence?, start: Int, before: Int, count: Int) = Unit

        override fun afterTextChanged(text: Editable?) = presenter.edit(text.toString())
    }

    private companion object {
        const val MENU_RESET = 1
        const val GALLERY = 1
        const val CAMERA = 2
        const val RECORD = 3
        const val PHOTO = "photo"
    }
}
