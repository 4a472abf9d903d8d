package org.g3n.core.bundle

import java.io.InputStream
import java.security.MessageDigest

/** How much of a long piece of work is done, in bytes. */
data class Progress(val done: Long, val total: Long) {
    val percent: Int get() = if (total <= 0) 100 else (done.toDouble() / total * 100).toInt().coerceIn(0, 100)
}

/** Set from any thread to end long work early. */
class Cancellation {
    @Volatile
    var isRequested: Boolean = false
        private set

    fun request() {
        isRequested = true
    }
}

/** Thrown by work that ended because its [Cancellation] was requested. */
class Cancelled : Exception("cancelled")

/** Compares every file of a bundle with its SHA-256. */
object HashCheck {
    private const val READ_AT_ONCE = 1 shl 20

    /** Raises [HashMismatch] at the first file that differs and [Cancelled] when told to stop. */
    fun run(bundle: Bundle, cancellation: Cancellation = Cancellation(), onProgress: (Progress) -> Unit = {}) {
        val total = bundle.manifest.totalBytes
        var done = 0L
        onProgress(Progress(0, total))
        for (entry in bundle.manifest.files) {
            val digest = SafePath.resolve(bundle.directory, entry.path).inputStream().use { stream ->
                sha256(stream, cancellation) { count ->
                    done += count
                    onProgress(Progress(done, total))
                }
            }
            if (digest != entry.sha256) {
                throw HashMismatch("${entry.path} differs from the hash in the manifest: copy the bundle again")
            }
        }
    }

    /** Lower-case hexadecimal SHA-256 of [stream]; [onBytes] is told how many bytes each read brought. */
    fun sha256(stream: InputStream, cancellation: Cancellation, onBytes: (Int) -> Unit = {}): String {
        val digest = MessageDigest.getInstance("SHA-256")
        val buffer = ByteArray(READ_AT_ONCE)
        while (true) {
            if (cancellation.isRequested) throw Cancelled()
            val count = stream.read(buffer)
            if (count < 0) return hex(digest.digest())
            digest.update(buffer, 0, count)
            onBytes(count)
        }
    }

    /** [bytes] as lower-case hexadecimal. */
    fun hex(bytes: ByteArray): String = bytes.joinToString("") { "%02x".format(it) }
}
