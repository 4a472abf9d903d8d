package org.g3n.core.bundle

import java.io.File

/** A bundle folder whose manifest was read; its files are there with their sizes, but not yet hashed. */
class Bundle private constructor(val directory: File, val manifest: Manifest) {
    /** The one file with [role]. */
    fun file(role: String): File = SafePath.resolve(directory, manifest.file(role).path)

    companion object {
        /** Opens [directory]; raises a [BundleException] for whatever keeps it from being used. */
        fun open(directory: File): Bundle {
            val manifest = ManifestReader.read(directory)
            for (entry in manifest.files) {
                val file = SafePath.resolve(directory, entry.path)
                if (!file.isFile) throw IncompleteBundle("${entry.path} is missing: copy the bundle again")
                if (file.length() != entry.bytes) {
                    throw IncompleteBundle(
                        "${entry.path} has ${file.length()} bytes, the manifest says ${entry.bytes}: copy the bundle again",
                    )
                }
            }
            return Bundle(directory, manifest)
        }
    }
}
