package org.g3n.core.bundle

import java.io.File
import java.security.MessageDigest

/**
 * A bundle folder whose manifest was read; its files are there with their sizes, but not yet hashed.
 *
 * @property manifestSha256 of the very bytes that [manifest] was read from, which a signature must name.
 */
class Bundle private constructor(val directory: File, val manifest: Manifest, val manifestSha256: String) {
    /** The one file with [role]. */
    fun file(role: String): File = SafePath.resolve(directory, manifest.file(role).path)

    companion object {
        /** Opens [directory]; raises a [BundleException] for whatever keeps it from being used. */
        fun open(directory: File): Bundle {
            val text = ManifestReader.bytes(directory)
            val manifest = ManifestReader.parse(ManifestReader.decode(text))
            for (entry in manifest.files) {
                val file = SafePath.resolve(directory, entry.path)
                if (!file.isFile) throw IncompleteBundle("${entry.path} is missing: copy the bundle again")
                if (file.length() != entry.bytes) {
                    throw IncompleteBundle(
                        "${entry.path} has ${file.length()} bytes, the manifest says ${entry.bytes}: copy the bundle again",
                    )
                }
            }
            return Bundle(directory, manifest, HashCheck.hex(MessageDigest.getInstance("SHA-256").digest(text)))
        }
    }
}
