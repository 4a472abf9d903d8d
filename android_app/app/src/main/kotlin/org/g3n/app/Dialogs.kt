package org.g3n.app

import android.app.Activity
import android.app.AlertDialog
import android.content.ActivityNotFoundException
import android.content.Intent

/** The one dialog that [activity] shows; closing it for a turned screen answers nothing. */
internal class Dialogs(private val activity: Activity) {
    private var shown: AlertDialog? = null

    /** [error]'s message, which says what to do; [onSeen] when the user has dismissed it. */
    fun show(error: Throwable, onSeen: () -> Unit) {
        val dialog = AlertDialog.Builder(activity)
            .setTitle(R.string.error_title)
            .setMessage(error.message ?: error.javaClass.simpleName)
        show(dialog, R.string.ok, {}, null, onSeen)
    }

    /** [onDone] follows every answer, also the back key's. */
    fun show(dialog: AlertDialog.Builder, yes: Int, onYes: () -> Unit, no: Int?, onDone: () -> Unit) {
        close()
        dialog.setPositiveButton(yes) { _, _ ->
            onYes()
            onDone()
        }
        if (no != null) dialog.setNegativeButton(no) { _, _ -> onDone() }
        shown = dialog.setOnCancelListener { onDone() }.show()
    }

    fun close() {
        shown?.dismiss()
        shown = null
    }
}

/** Starts [intent] of another app, or says that the phone has none for it and returns `false`. */
internal fun Activity.startOrTell(intent: Intent, request: Int): Boolean = try {
    startActivityForResult(intent, request)
    true
} catch (_: ActivityNotFoundException) {
    AlertDialog.Builder(this).setTitle(R.string.error_title).setMessage(R.string.no_app).setPositiveButton(R.string.ok, null).show()
    false
}
