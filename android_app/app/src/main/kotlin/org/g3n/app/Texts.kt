package org.g3n.app

import android.content.Context
import android.text.BidiFormatter
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

    fun bytes(context: Context, bytes: Long): String = isolated(Formatter.formatShortFileSize(context, bytes))

    /** A phone's memory as it is sold: 8 GiB are called 8 GB. */
    fun memory(context: Context, bytes: Long): String =
        isolated(context.getString(R.string.memory_sold, (bytes + GIB - 1) / GIB))

    /** [text] with its own direction in a sentence of the other one: two sizes would change places. */
    fun isolated(text: String): String = BidiFormatter.getInstance().unicodeWrap(text)

    fun origin(context: Context, origin: Origin, accepted: Boolean): String = when (origin) {
        Origin.NotSigned -> context.getString(R.string.origin_not_signed)
        Origin.NotChecked -> context.getString(R.string.origin_not_checked)
        is Origin.Signed ->
            context.getString(if (accepted) R.string.origin_accepted else R.string.origin_unknown, isolated(origin.fingerprint))
    }

    fun fit(context: Context, fit: Fit): String = when (fit.verdict) {
        Verdict.FITS -> context.getString(R.string.fit_fits, bytes(context, fit.peak), bytes(context, fit.usable))
        Verdict.TIGHT -> context.getString(R.string.fit_tight, bytes(context, fit.peak), bytes(context, fit.usable))
        Verdict.TOO_SMALL -> context.getString(R.string.fit_too_small, memory(context, fit.leastDeviceRam))
    }

    private const val GIB = 1L shl 30
}
