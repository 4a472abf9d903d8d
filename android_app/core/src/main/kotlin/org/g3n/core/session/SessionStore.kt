package org.g3n.core.session

import org.g3n.core.bundle.InvalidManifest
import java.io.File
import java.io.FileOutputStream
import java.io.IOException

/** Keeps the [Session]. */
interface SessionStore {
    fun save(session: Session)

    /** The session that was saved last, or `null` if there is none or it cannot be read. */
    fun load(): Session?
}

/** Keeps the session in [file]; a save that breaks off leaves the one before it. */
class FileSessionStore(private val file: File) : SessionStore {
    override fun save(session: Session) {
        val part = File(file.path + ".part")
        part.parentFile?.mkdirs()
        FileOutputStream(part).use {
            it.write(SessionJson.write(session).encodeToByteArray())
            it.fd.sync()
        }
        if (!part.renameTo(file)) throw IOException("${file.path} cannot be written")
    }

    override fun load(): Session? {
        if (!file.isFile || file.length() > MAX_BYTES) return null
        return try {
            SessionJson.read(file.readText())
        } catch (_: InvalidManifest) {
            null
        } catch (_: IOException) {
            null
        }
    }

    private companion object {
        const val MAX_BYTES = 8L shl 20
    }
}
