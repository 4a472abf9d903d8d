package org.g3n.app

import android.app.Activity
import android.app.AlertDialog
import android.content.Context
import android.text.format.Formatter
import org.g3n.core.bundle.Device
import org.g3n.core.bundle.Origin
import org.g3n.core.bundle.Runtime
import org.g3n.core.device.Fit
import org.g3n.core.device.Verdict

/** Texts that several screens show. */
internal object Texts {
    fun runtime(runtime: Runtime): String = when (runtime) {
        Runtime.LITERT -> "LiteRT"
        Runtime.EXECUTORCH -> "ExecuTorch"
    }

    fun device(context: Context, device: Device): String = when (device) {
        Device.CPU -> context.getString(R.string.device_cpu)
        Device.ACCELERATOR -> context.getString(R.string.device_accelerator)
    }

    fun bytes(context: Context, bytes: Long): String = Formatter.formatShortFileSize(context, bytes)

    fun origin(context: Context, origin: Origin, accepted: Boolean): String = when (origin) {
        Origin.NotSigned -> context.getString(R.string.origin_not_signed)
        Origin.NotChecked -> context.getString(R.string.origin_not_checked)
        is Origin.Signed ->
            context.getString(if (accepted) R.string.origin_accepted else R.string.origin_unknown, origin.fingerprint)
    }

    fun fit(context: Context, fit: Fit): String = when (fit.verdict) {
        Verdict.FITS -> context.getString(R.string.fit_fits, bytes(context, fit.peak), bytes(context, fit.usable))
        Verdict.TIGHT -> context.getString(R.string.fit_tight, bytes(context, fit.peak), bytes(context, fit.usable))
        Verdict.TOO_SMALL -> context.getString(R.string.fit_too_small, bytes(context, fit.leastDeviceRam))
    }
}

/** Shows [error] until it is dismissed; its message says what to do. */
internal fun Activity.showErrorDialog(error: Throwable) {
    if (isFinishing) return
    AlertDialog.Builder(this)
        .setTitle(R.string.error_title)
        .setMessage(error.message ?: error.javaClass.simpleName)
        .setPositiveButton(R.string.ok, null)
        .show()
}
