package org.g3n.core.bundle

import java.io.File

/** Paths that a manifest names: relative, downwards, and not out through a link. */
object SafePath {
    /** [path] itself; raises [UnsafePath] if it is absolute or climbs. */
    fun check(path: String): String {
        val parts = path.split('/')
        val climbs = parts.any { it == ".." }
        val empty = parts.all { it.isEmpty() || it == "." }
        if (path.startsWith("/") || climbs || empty || '\\' in path || '\u0000' in path) {
            throw UnsafePath("the manifest names ${Json.quoted(path)}, which leads out of the bundle's folder")
        }
        return path
    }

    /** The file [path] in [directory]; raises [UnsafePath] if a link leads elsewhere. */
    fun resolve(directory: File, path: String): File {
        val file = File(directory, check(path))
        val root = directory.canonicalFile
        if (!file.canonicalFile.startsWith(root)) {
            throw UnsafePath("${Json.quoted(path)} is a link that leads out of the bundle's folder")
        }
        return file
    }
}
