package org.g3n.core

import org.g3n.core.bundle.BundleException
import org.g3n.core.bundle.InvalidManifest
import org.g3n.core.bundle.ManifestReader
import org.g3n.core.bundle.MemoryKind
import org.g3n.core.bundle.NewerManifest
import org.g3n.core.bundle.Runtime
import org.g3n.core.bundle.SafePath
import org.g3n.core.bundle.SchemaValidator
import org.g3n.core.bundle.UnsafePath
import org.junit.Test
import kotlin.test.assertEquals
import kotlin.test.assertFailsWith
import kotlin.test.assertTrue

class ManifestTest {
    @Test
    fun `a manifest of the compiler is read`() {
        val manifest = ManifestReader.parse(Golden.text("manifest.json"))
        assertEquals("nano-host-int4", manifest.name)
        assertEquals(listOf(Runtime.LITERT, Runtime.EXECUTORCH), manifest.runtimes)
        assertEquals(setOf(1, 106), manifest.stopIds)
        assertEquals(4096, manifest.context)
        assertEquals(64, manifest.sampling.topK)
        assertEquals(4, manifest.golden.size)
        assertTrue(manifest.parityPassed)
        assertEquals(2L shl 30, manifest.ledger(Runtime.LITERT).leastDeviceRam)
        val towers = manifest.ledger(Runtime.LITERT).parts.filter { it.kind == MemoryKind.ON_DEMAND }.map { it.name }
        assertEquals(listOf("vision", "audio"), towers)
        assertEquals(259_038_838, manifest.ledger(Runtime.LITERT).peak)
    }

    @Test
    fun `both sides give the same verdict on every change of a manifest`() {
        val disagreements = Golden.cases("manifest_mutations.json").filter { case ->
            val tree = JsonTree.mutable(Golden.read("manifest_short.json"))
            val path = case["path"] as List<*>
            when (case["op"]) {
                "delete" -> JsonTree.delete(tree, path)
                "repeat" -> JsonTree.set(tree, path, "x".repeat((case["value"] as Long).toInt()))
                else -> JsonTree.set(tree, path, case["value"])
            }
            readable(JsonTree.write(tree)) != case["valid"]
        }
        assertEquals(emptyList(), disagreements.map { it["path"] to it["op"] to it["value"] })
    }

    private fun readable(text: String): Boolean = try {
        ManifestReader.parse(text)
        true
    } catch (_: UnsafePath) {
        true // beyond the schema: the Python side refuses it when it opens the bundle
    } catch (error: BundleException) {
        // What the schema allows and no device can use is refused by the typed reader.
        error.message.orEmpty().startsWith("the sampler has")
    }

    @Test
    fun `paths that leave the bundle are refused on both sides`() {
        for (case in Golden.cases("paths.json")) {
            val path = case["path"] as String
            val safe = runCatching { SafePath.check(path) }.isSuccess
            assertEquals(case["safe"], safe, "path ${path.map { it.code }}")
        }
    }

    @Test
    fun `a newer manifest asks for an update`() {
        val newer = Golden.text("manifest.json").replace("\"schema_version\": 1", "\"schema_version\": 2")
        assertTrue("update the app" in assertFailsWith<NewerManifest> { ManifestReader.parse(newer) }.message!!)
    }

    @Test
    fun `hostile text is refused without much memory`() {
        val deep = "[".repeat(100_000)
        for (text in listOf(deep, "{\"a\":".repeat(50_000), "", "nul", "{}{}", "{\"a\":1,\"a\":2}", "1e999", "9".repeat(30))) {
            assertFailsWith<InvalidManifest>(text.take(20)) { ManifestReader.parse(text) }
        }
    }

    @Test
    fun `a manifest over the limit is not read to its end`() {
        val endless = object : java.io.InputStream() {
            var given = 0L

            override fun read(): Int = ' '.code

            override fun read(buffer: ByteArray, offset: Int, length: Int): Int {
                given += length
                return length
            }
        }
        assertFailsWith<InvalidManifest> { ManifestReader.read(endless) }
        assertTrue(endless.given < 2L * ManifestReader.MAX_BYTES)
    }

    @Test
    fun `bytes that are no text are refused`() {
        assertFailsWith<InvalidManifest> { ManifestReader.read(byteArrayOf(0x7b, 0xC3.toByte(), 0x28).inputStream()) }
    }

    @Test
    fun `a huge name in an error is cut`() {
        val huge = Golden.text("manifest.json").replace("\"context\"", "\"${"y".repeat(2_000_000)}\"")
        assertTrue(assertFailsWith<InvalidManifest> { ManifestReader.parse(huge) }.message!!.length < 400)
    }

    @Test
    fun `a sampler no engine takes is refused`() {
        val cold = Golden.text("manifest.json").replace("\"temperature\": 1.0", "\"temperature\": -1.0")
        assertFailsWith<InvalidManifest> { ManifestReader.parse(cold) }
    }

    @Test
    fun `an unknown keyword of the schema is an error`() {
        assertFailsWith<IllegalArgumentException> { SchemaValidator(mapOf("type" to "object", "oneOf" to emptyList<Any>())) }
    }
}
