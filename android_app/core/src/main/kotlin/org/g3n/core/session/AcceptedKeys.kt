package org.g3n.core.session

import java.io.File
import java.io.FileOutputStream
import java.io.IOException

/** The signing keys that the user has accepted, by their fingerprints. */
interface AcceptedKeys {
    fun contains(fingerprint: String): Boolean

    fun add(fingerprint: String)
}

/** Keeps them in [file], one a line; a save that breaks off leaves the ones before it. */
class FileAcceptedKeys(private val file: File) : AcceptedKeys {
    override fun contains(fingerprint: String): Boolean = fingerprint in read()

    override fun add(fingerprint: String) {
        val part = File(file.path + ".part")
        part.parentFile?.mkdirs()
        FileOutputStream(part).use {
            it.write((read() + fingerprint).joinToString("\n", postfix = "\n").encodeToByteArray())
            it.fd.sync()
        }
        if (!part.renameTo(file)) throw IOException("${file.path} cannot be written")
    }

    private fun read(): Set<String> =
        if (file.isFile && file.length() <= MAX_BYTES) file.readLines().filter { it.isNotBlank() }.toSet() else emptySet()

    private companion object {
        const val MAX_BYTES = 1L shl 20
    }
}
