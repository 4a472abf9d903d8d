package org.g3n.core.bundle

import java.io.File
import java.io.FileOutputStream
import java.io.InputStream
import java.security.MessageDigest

/** A place a bundle is copied from, such as a folder chosen in the system's picker. */
fun interface BundleSource {
    /** Bytes of the file at the relative [path], or `null` if there is none. Closed by the caller. */
    fun open(path: String): InputStream?
}

/**
 * Copies a bundle into the app's own storage, since engines map files by path.
 *
 * Only files that the manifest names and its signature are copied, each hashed on the way. The manifest comes last: a copy that broke off
 * is no bundle, and the next try keeps the files that are already whole.
 *
 * @param freeBytes how much the disk of a folder still takes.
 */
class BundleImporter(private val freeBytes: (File) -> Long = { it.usableSpace }) {
    /**
     * Copies [source] into a folder of [parent] named after the bundle, and returns that folder.
     *
     * Raises a [BundleException] for a bundle that cannot be used and [Cancelled] when told to stop.
     */
    fun copy(
        source: BundleSource,
        parent: File,
        cancellation: Cancellation = Cancellation(),
        onProgress: (Progress) -> Unit = {},
    ): File {
        val text = source.open(ManifestReader.FILE_NAME)?.use(ManifestReader::bytes)
            ?: throw NotABundle("the chosen folder has no ${ManifestReader.FILE_NAME}: choose the bundle's own folder")
        val manifest = ManifestReader.read(text.inputStream())
        val folder = File(parent, folderName(manifest.name))
        // Made first: the free space of a folder that does not exist is 0.
        if (!folder.isDirectory && !folder.mkdirs()) throw NoSpace("${folder.path} cannot be made")
        requireSpace(manifest, folder)
        // Without its manifest a folder is no bundle, whatever else it holds.
        File(folder, ManifestReader.FILE_NAME).delete()
        File(folder, SignatureCheck.FILE_NAME).delete()
        var before = 0L
        for (entry in manifest.files) {
            copyFile(source, entry, folder, cancellation) { onProgress(Progress(before + it, manifest.totalBytes)) }
            before += entry.bytes
        }
        source.open(SignatureCheck.FILE_NAME)?.use(SignatureCheck::bytes)?.let {
            writeWhole(File(folder, SignatureCheck.FILE_NAME), it)
        }
        writeWhole(File(folder, ManifestReader.FILE_NAME), text)
        return folder
    }

    private fun requireSpace(manifest: Manifest, folder: File) {
        val missing = manifest.files.sumOf { if (isWhole(SafePath.resolve(folder, it.path), it)) 0 else it.bytes }
        val free = freeBytes(folder)
        if (missing > free) throw NoSpace("the bundle needs ${missing - free} bytes more than the device has free: make room")
    }

    private fun copyFile(
        source: BundleSource,
        entry: BundleFile,
        folder: File,
        cancellation: Cancellation,
        onBytes: (Long) -> Unit,
    ) {
        val target = SafePath.resolve(folder, entry.path)
        if (isWhole(target, entry) && sha256(target, cancellation) == entry.sha256) return onBytes(entry.bytes)
        target.parentFile?.mkdirs()
        val part = File(target.path + PART)
        val digest = MessageDigest.getInstance("SHA-256")
        val stream = source.open(entry.path) ?: throw IncompleteBundle("${entry.path} is missing from the chosen folder")
        stream.use { input ->
            FileOutputStream(part).use { output ->
                copyExactly(input, output, entry, digest, cancellation, onBytes)
                output.fd.sync()
            }
        }
        if (HashCheck.hex(digest.digest()) != entry.sha256) {
            part.delete()
            throw HashMismatch("${entry.path} differs from the hash in the manifest: fetch the bundle again")
        }
        if (!part.renameTo(target)) throw NoSpace("${target.path} cannot be written")
    }

    private fun copyExactly(
        input: InputStream,
        output: FileOutputStream,
        entry: BundleFile,
        digest: MessageDigest,
        cancellation: Cancellation,
        onBytes: (Long) -> Unit,
    ) {
        val buffer = ByteArray(COPY_AT_ONCE)
        var done = 0L
        while (true) {
            if (cancellation.isRequested) throw Cancelled()
            val count = input.read(buffer)
            if (count < 0) break
            done += count
            if (done > entry.bytes) throw IncompleteBundle("${entry.path} is longer than the manifest says")
            output.write(buffer, 0, count)
            digest.update(buffer, 0, count)
            onBytes(done)
        }
        if (done < entry.bytes) throw IncompleteBundle("${entry.path} ends after $done of ${entry.bytes} bytes")
    }

    private fun isWhole(file: File, entry: BundleFile): Boolean = file.isFile && file.length() == entry.bytes

    private fun sha256(file: File, cancellation: Cancellation): String =
        file.inputStream().use { HashCheck.sha256(it, cancellation) }

    private fun writeWhole(file: File, bytes: ByteArray) {
        val part = File(file.path + PART)
        FileOutputStream(part).use {
            it.write(bytes)
            it.fd.sync()
        }
        if (!part.renameTo(file)) throw NoSpace("${file.path} cannot be written")
    }

    private companion object {
        const val PART = ".part"
        const val COPY_AT_ONCE = 1 shl 20
        const val MAX_NAME = 64

        /** A bundle's name comes from a stranger: only plain characters make it into a path. */
        fun folderName(name: String): String {
            val plain = name.map { if (it.isLetterOrDigit() && it.code < 128 || it in "-_.") it else '_' }.joinToString("")
            return plain.trimStart('.').take(MAX_NAME).ifEmpty { "bundle" }
        }
    }
}
