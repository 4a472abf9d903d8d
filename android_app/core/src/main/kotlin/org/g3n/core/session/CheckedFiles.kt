package org.g3n.core.session

import org.g3n.core.bundle.Bundle
import org.g3n.core.bundle.SafePath
import java.io.File
import java.io.FileOutputStream
import java.io.IOException

/** Which bundles were hashed earlier, so that gigabytes are not read again at every start. */
interface CheckedFiles {
    /** Sizes and times of all files of [bundle], and what its manifest says of them. */
    fun state(bundle: Bundle): String

    /** Whether all files were hashed when they were in [state]. */
    fun isKnown(state: String): Boolean

    /** All files of [bundle] have their hashes; [state] was taken before they were read. */
    fun remember(bundle: Bundle, state: String)
}

/**
 * Keeps one line for each bundle in [file]: its manifest's hash, then size and time of every file.
 *
 * Whoever can set a file's time can deceive it, as someone with `adb` can; a person can have the files hashed again.
 */
class FileCheckedFiles(private val file: File) : CheckedFiles {
    override fun isKnown(state: String): Boolean = state in read()

    override fun remember(bundle: Bundle, state: String) {
        val part = File(file.path + ".part")
        part.parentFile?.mkdirs()
        val kept = read().filter { !it.endsWith(" ${path(bundle)}") }.takeLast(MAX_BUNDLES - 1)
        FileOutputStream(part).use {
            it.write((kept + state).joinToString("\n", postfix = "\n").encodeToByteArray())
            it.fd.sync()
        }
        if (!part.renameTo(file)) throw IOException("${file.path} cannot be written")
    }

    private fun read(): List<String> =
        if (file.isFile && file.length() <= MAX_BYTES) file.readLines().filter { it.isNotBlank() } else emptyList()

    override fun state(bundle: Bundle): String {
        val files = bundle.manifest.files.map { SafePath.resolve(bundle.directory, it.path) }
        val states = files.joinToString(" ") { "${it.length()}:${it.lastModified()}" }
        return "${bundle.manifestSha256} $states ${path(bundle)}"
    }

    private fun path(bundle: Bundle): String = bundle.directory.absolutePath.replace('\n', ' ')

    private companion object {
        const val MAX_BUNDLES = 32
        const val MAX_BYTES = 1L shl 20
    }
}
