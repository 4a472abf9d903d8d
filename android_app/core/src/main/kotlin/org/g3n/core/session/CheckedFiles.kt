package org.g3n.core.session

import org.g3n.core.bundle.Bundle
import org.g3n.core.bundle.SafePath
import java.io.File
import java.io.FileOutputStream
import java.io.IOException

/** Which bundles were hashed earlier, so that gigabytes are not read again at every start. */
interface CheckedFiles {
    /** Whether all files of [bundle] were hashed and have kept their sizes and times since. */
    fun isUnchanged(bundle: Bundle): Boolean

    /** All files of [bundle] have the hashes that its manifest says. */
    fun remember(bundle: Bundle)
}

/**
 * Keeps one line for each bundle in [file]: its manifest's hash, then size and time of every file.
 *
 * Whoever can set a file's time can deceive it, as someone with `adb` can; a person can have the files hashed again.
 */
class FileCheckedFiles(private val file: File) : CheckedFiles {
    override fun isUnchanged(bundle: Bundle): Boolean = stamp(bundle) in read()

    override fun remember(bundle: Bundle) {
        val part = File(file.path + ".part")
        part.parentFile?.mkdirs()
        val kept = read().filter { !it.endsWith(" ${path(bundle)}") }.takeLast(MAX_BUNDLES - 1)
        FileOutputStream(part).use {
            it.write((kept + stamp(bundle)).joinToString("\n", postfix = "\n").encodeToByteArray())
            it.fd.sync()
        }
        if (!part.renameTo(file)) throw IOException("${file.path} cannot be written")
    }

    private fun read(): List<String> =
        if (file.isFile && file.length() <= MAX_BYTES) file.readLines().filter { it.isNotBlank() } else emptyList()

    private fun stamp(bundle: Bundle): String {
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
