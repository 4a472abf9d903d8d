package org.g3n.app

import android.content.Context
import android.content.res.Configuration
import android.text.BidiFormatter
import android.text.format.Formatter
import org.g3n.core.bundle.Device
import org.g3n.core.bundle.Origin
import org.g3n.core.bundle.Runtime
import org.g3n.core.device.Fit
import org.g3n.core.device.Verdict
import java.util.Locale

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

    fun bytes(context: Context, bytes: Long): String =
        isolated(context, Formatter.formatShortFileSize(inOwnLanguage(context), bytes))

    /** A phone's memory as it is sold: 8 GiB are called 8 GB. */
    fun memory(context: Context, bytes: Long): String =
        isolated(context, inOwnLanguage(context).getString(R.string.memory_sold, (bytes + GIB - 1) / GIB))

    /** [text], which may be written the other way round, inside a sentence of this app. */
    fun isolated(context: Context, text: String): String = BidiFormatter.getInstance(language(context)).unicodeWrap(text)

    /** The text [id] with figures in its own language, which is not always the phone's. */
    fun sentence(context: Context, id: Int, vararg figures: Any): String = inOwnLanguage(context).getString(id, *figures)

    private fun inOwnLanguage(context: Context): Context =
        context.createConfigurationContext(Configuration(context.resources.configuration).apply { setLocale(language(context)) })

    private fun language(context: Context): Locale = Locale(context.getString(R.string.language))

    fun origin(context: Context, origin: Origin, accepted: Boolean): String = when (origin) {
        Origin.NotSigned -> context.getString(R.string.origin_not_signed)
        Origin.NotChecked -> context.getString(R.string.origin_not_checked)
        is Origin.Signed ->
            context.getString(if (accepted) R.string.origin_accepted else R.string.origin_unknown, fingerprint(context, origin.fingerprint))
    }

    /** A key's fingerprint in lines of whole groups: a narrow screen would break it within one, and people compare it. */
    fun fingerprint(context: Context, fingerprint: String): String {
        val lines = fingerprint.split('-').chunked(GROUPS_IN_A_LINE).map { it.joinToString("-") }
        return (lines.dropLast(1).map { "$it-" } + lines.takeLast(1)).joinToString("\n") { isolated(context, it) }
    }

    fun fit(context: Context, fit: Fit): String = when (fit.verdict) {
        Verdict.FITS -> context.getString(R.string.fit_fits, bytes(context, fit.peak), bytes(context, fit.usable))
        Verdict.TIGHT -> context.getString(R.string.fit_tight, bytes(context, fit.peak), bytes(context, fit.usable))
        Verdict.TOO_SMALL -> context.getString(R.string.fit_too_small, memory(context, fit.leastDeviceRam))
    }

    private const val GIB = 1L shl 30
    private const val GROUPS_IN_A_LINE = 4
}
