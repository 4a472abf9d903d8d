package org.g3n.core

import org.g3n.core.bundle.Bundle
import org.g3n.core.bundle.BundleImporter
import org.g3n.core.bundle.BundleSource
import org.g3n.core.bundle.InvalidSignature
import org.g3n.core.bundle.Origin
import org.g3n.core.bundle.SignatureCheck
import org.g3n.core.bundle.UnsafePath
import org.g3n.core.session.FileAcceptedKeys
import org.junit.Rule
import org.junit.Test
import org.junit.rules.TemporaryFolder
import java.io.File
import java.nio.file.Files
import kotlin.test.assertEquals
import kotlin.test.assertFailsWith
import kotlin.test.assertFalse
import kotlin.test.assertTrue

class SignatureTest {
    @get:Rule
    val temporary = TemporaryFolder()

    private val signed by lazy { SignedBundle(temporary.newFolder("signed")) }

    private fun check(folder: File = signed.folder): Origin = SignatureCheck.run(Bundle.open(folder))

    @Test
    fun `what the compiler signed is verified and its key has the same fingerprint`() {
        assertEquals(Origin.Signed(signed.fingerprint), check())
    }

    @Test
    fun `a bundle without signature is not signed`() {
        File(signed.folder, "manifest.sig").delete()
        assertEquals(Origin.NotSigned, check())
    }

    @Test
    fun `both sides give the same verdict on every change of a signature`() {
        val disagreements = signed.cases.filter { case ->
            signed.sign(case["signature"] as String)
            val verdict = try {
                when (check()) {
                    is Origin.Signed -> "signed"
                    Origin.NotChecked -> "unchecked"
                    Origin.NotSigned -> "not signed"
                }
            } catch (_: InvalidSignature) {
                "refused"
            }
            verdict != case["verdict"]
        }
        assertEquals(emptyList(), disagreements.map { it["what"] })
        assertTrue(signed.cases.size > 50)
    }

    @Test
    fun `a changed manifest and another bundle's signature are refused`() {
        val manifest = File(signed.folder, "manifest.json")
        manifest.writeText(manifest.readText().replace("\"context\": 4096", "\"context\": 4095"))
        assertTrue("the manifest was changed" in assertFailsWith<InvalidSignature> { check() }.message!!)
        val other = BundleMaker(temporary.newFolder("other")).make()
        File(signed.folder, "manifest.sig").copyTo(File(other, "manifest.sig"))
        assertFailsWith<InvalidSignature> { check(other) }
    }

    @Test
    fun `a signature that is a link out, a folder or too long is refused`() {
        val file = File(signed.folder, "manifest.sig")
        val elsewhere = File(temporary.root, "elsewhere")
        file.renameTo(elsewhere)
        Files.createSymbolicLink(file.toPath(), elsewhere.toPath())
        assertFailsWith<UnsafePath> { check() }
        file.delete()
        file.mkdirs()
        assertFailsWith<InvalidSignature> { check() }
        file.delete()
        file.writeText(" ".repeat(2 shl 20))
        assertFailsWith<InvalidSignature> { check() }
    }

    @Test
    fun `a signature is copied with its bundle and an old one does not stay`() {
        val target = temporary.newFolder("app")
        val source = BundleSource { path -> File(signed.folder, path).takeIf { it.isFile }?.inputStream() }
        assertEquals(Origin.Signed(signed.fingerprint), check(BundleImporter().copy(source, target)))
        File(signed.folder, "manifest.sig").delete()
        assertEquals(Origin.NotSigned, check(BundleImporter().copy(source, target)))
    }

    @Test
    fun `accepted keys are still there in the next session`() {
        val file = File(temporary.root, "folder/accepted_keys")
        val keys = FileAcceptedKeys(file)
        assertFalse(keys.contains("a"))
        keys.add("a")
        keys.add("b")
        keys.add("a")
        assertTrue(FileAcceptedKeys(file).contains("a") && FileAcceptedKeys(file).contains("b"))
        assertEquals(listOf("a", "b"), file.readLines())
        assertFalse(FileAcceptedKeys(file).contains(""))
    }
}
