package org.g3n.core

import org.g3n.core.bundle.BundleFile
import org.g3n.core.bundle.HashCheck
import org.g3n.core.bundle.Json
import java.io.File
import java.security.MessageDigest

/** Vectors that the Python side writes and checks, see `tests/android/golden.py`. */
object Golden {
    fun text(name: String): String =
        checkNotNull(Golden::class.java.getResourceAsStream("/golden/$name")) { "no vector $name" }
            .use { it.readBytes().decodeToString() }

    fun read(name: String): Any? = Json.parse(text(name))

    @Suppress("UNCHECKED_CAST")
    fun cases(name: String): List<Map<String, Any?>> = (read(name) as List<Map<String, Any?>>).also { check(it.isNotEmpty()) }

    /** A file of the repository that the tests share with the compiler. */
    fun repositoryFile(path: String): File {
        val root = checkNotNull(System.getProperty("g3n.repository")) { "run with -Dg3n.repository=FOLDER" }
        return File(root, path)
    }

    fun sha256(bytes: ByteArray): String = HashCheck.hex(MessageDigest.getInstance("SHA-256").digest(bytes))
}

/** Writes small bundles whose manifest is the golden one with files of a few bytes. */
class BundleMaker(private val folder: File) {
    private val contents = linkedMapOf(
        "model.litertlm" to "litert".repeat(1000),
        "model.pte" to "program",
        "model.ptd" to "tables",
        "tokenizer.json" to "{}",
        "vision.pte" to "vision encoder",
        "audio.pte" to "audio encoder",
    )

    /** [change] edits the manifest's JSON tree before it is written. */
    fun make(change: (MutableMap<String, Any?>) -> Unit = {}): File {
        folder.mkdirs()
        val manifest = JsonTree.map(JsonTree.mutable(Golden.read("manifest_short.json")))
        val files = JsonTree.list(manifest["files"])
        for (file in files) {
            val entry = JsonTree.map(file)
            val bytes = contents.getValue(entry["path"] as String).encodeToByteArray()
            File(folder, entry["path"] as String).writeBytes(bytes)
            entry["bytes"] = bytes.size.toLong()
            entry["sha256"] = Golden.sha256(bytes)
        }
        change(manifest)
        File(folder, "manifest.json").writeText(JsonTree.write(manifest))
        return folder
    }
}

/** The small bundle that the Python side signed, see `tests/android/signed.py`. */
class SignedBundle(val folder: File) {
    private val vectors = JsonTree.map(Golden.read("signatures.json"))
    val fingerprint = vectors["fingerprint"] as String
    val cases: List<Map<String, Any?>> = JsonTree.list(vectors["cases"]).map { JsonTree.map(it) }

    init {
        for ((path, content) in JsonTree.map(vectors["files"])) File(folder, path).writeText(content as String)
        File(folder, "manifest.json").writeText(vectors["manifest"] as String)
        sign(vectors["signature"] as String)
    }

    /** Puts another signature file in the bundle. */
    fun sign(text: String) = File(folder, "manifest.sig").writeText(text)
}

/** What tests do to JSON that the app never does: change and write it. */
object JsonTree {
    fun mutable(value: Any?): Any? = when (value) {
        is Map<*, *> -> value.entries.associateTo(LinkedHashMap()) { it.key as String to mutable(it.value) }
        is List<*> -> value.mapTo(ArrayList()) { mutable(it) }
        else -> value
    }

    @Suppress("UNCHECKED_CAST")
    fun map(value: Any?): MutableMap<String, Any?> = value as MutableMap<String, Any?>

    @Suppress("UNCHECKED_CAST")
    fun list(value: Any?): MutableList<Any?> = value as MutableList<Any?>

    fun at(root: Any?, path: List<Any?>): Any? = path.fold(root) { value, step ->
        if (step is Long) list(value)[step.toInt()] else map(value)[step as String]
    }

    fun set(root: Any?, path: List<Any?>, value: Any?) {
        val holder = at(root, path.dropLast(1))
        val step = path.last()
        if (step is Long) list(holder)[step.toInt()] = value else map(holder)[step as String] = value
    }

    fun delete(root: Any?, path: List<Any?>) {
        val holder = at(root, path.dropLast(1))
        val step = path.last()
        if (step is Long) list(holder).removeAt(step.toInt()) else map(holder).remove(step as String)
    }

    fun write(value: Any?): String = when (value) {
        is Map<*, *> -> value.entries.joinToString(",", "{", "}") { write(it.key) + ":" + write(it.value) }
        is List<*> -> value.joinToString(",", "[", "]") { write(it) }
        is String -> value.map { if (it < ' ' || it == '"' || it == '\\') "\\u%04x".format(it.code) else "$it" }
            .joinToString("", "\"", "\"")
        else -> "$value"
    }

    fun file(entry: BundleFile): Map<String, Any?> =
        mapOf("path" to entry.path, "role" to entry.role, "sha256" to entry.sha256, "bytes" to entry.bytes)
}
