package org.g3n.core.bundle

import java.io.ByteArrayOutputStream
import java.io.File
import java.io.InputStream
import java.io.InputStreamReader
import java.nio.ByteBuffer
import java.nio.charset.CharacterCodingException
import java.nio.charset.CodingErrorAction

/** Reads `manifest.json` as a stranger's: bounded, checked against the published schema, then typed. */
object ManifestReader {
    const val FILE_NAME = "manifest.json"
    const val SCHEMA_VERSION = 1
    const val MAX_BYTES = 16 shl 20

    private val schema: SchemaValidator by lazy {
        val stream = checkNotNull(ManifestReader::class.java.getResourceAsStream("/manifest.schema.json")) {
            "manifest.schema.json is not packed into the app"
        }
        @Suppress("UNCHECKED_CAST")
        SchemaValidator(stream.use { Json.parse(InputStreamReader(it, Charsets.UTF_8)) } as Map<String, Any?>)
    }

    /**
     * The manifest in [directory].
     *
     * Raises [NotABundle] when there is none, [NewerManifest] and [InvalidManifest] when it cannot be read.
     */
    fun read(directory: File): Manifest = parse(decode(bytes(directory)))

    /** The manifest in [directory] as bytes, not yet looked at; raises [NotABundle] when there is none. */
    fun bytes(directory: File): ByteArray {
        val file = File(directory, FILE_NAME)
        if (!file.isFile) throw NotABundle("${directory.name} has no $FILE_NAME: it is not a g3n bundle, or a copy broke off")
        return file.inputStream().use { bytes(it) }
    }

    /** See [read]; at most [MAX_BYTES] are taken from [stream]. */
    fun read(stream: InputStream): Manifest = parse(decode(bytes(stream)))

    /** See [read]. */
    fun parse(text: String): Manifest {
        val value = Json.parse(text)
        val version = (value as? Map<*, *>)?.get("schema_version")
        if (version is Long && version > SCHEMA_VERSION) {
            throw NewerManifest(
                "the manifest has schema version $version, this app reads up to $SCHEMA_VERSION: update the app",
            )
        }
        schema.firstViolation(value)?.let {
            throw InvalidManifest("the manifest does not follow its schema at ${it.path.ifEmpty { "the top" }}: it ${it.message}")
        }
        return ManifestMapper(value as Map<*, *>).manifest()
    }

    /** All of [stream], a manifest not yet looked at; raises [InvalidManifest] beyond [MAX_BYTES]. */
    fun bytes(stream: InputStream): ByteArray {
        val buffer = ByteArray(READ_AT_ONCE)
        val out = ByteArrayOutputStream()
        while (true) {
            val count = stream.read(buffer)
            if (count < 0) return out.toByteArray()
            if (out.size() + count > MAX_BYTES) throw InvalidManifest("the manifest has more than $MAX_BYTES bytes")
            out.write(buffer, 0, count)
        }
    }

    /** [bytes] as text; raises [InvalidManifest] for what is not UTF-8. */
    internal fun decode(bytes: ByteArray): String {
        val decoder = Charsets.UTF_8.newDecoder().onMalformedInput(CodingErrorAction.REPORT)
        return try {
            decoder.decode(ByteBuffer.wrap(bytes)).toString()
        } catch (error: CharacterCodingException) {
            throw InvalidManifest("the manifest is not UTF-8 text", error)
        }
    }

    private const val READ_AT_ONCE = 1 shl 16
}
