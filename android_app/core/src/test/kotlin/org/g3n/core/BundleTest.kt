package org.g3n.core

import org.g3n.core.bundle.Bundle
import org.g3n.core.bundle.BundleImporter
import org.g3n.core.bundle.BundleSource
import org.g3n.core.bundle.Cancellation
import org.g3n.core.bundle.Cancelled
import org.g3n.core.bundle.HashCheck
import org.g3n.core.bundle.HashMismatch
import org.g3n.core.bundle.IncompleteBundle
import org.g3n.core.bundle.NoSpace
import org.g3n.core.bundle.NotABundle
import org.g3n.core.bundle.Progress
import org.g3n.core.bundle.UnsafePath
import org.g3n.core.chat.Attachment
import org.g3n.core.chat.FolderAttachments
import org.g3n.core.session.FileCheckedFiles
import org.junit.Rule
import org.junit.Test
import org.junit.rules.TemporaryFolder
import java.io.File
import java.io.InputStream
import java.nio.file.Files
import kotlin.test.assertEquals
import kotlin.test.assertFailsWith
import kotlin.test.assertFalse
import kotlin.test.assertTrue

class BundleTest {
    @get:Rule
    val temporary = TemporaryFolder()

    private val folder: File get() = File(temporary.root, "bundle")

    @Test
    fun `a whole bundle opens and its hashes are checked with progress`() {
        val bundle = Bundle.open(BundleMaker(folder).make())
        val seen = ArrayList<Progress>()
        HashCheck.run(bundle, onProgress = { seen += it })
        assertEquals(0, seen.first().percent)
        assertEquals(Progress(bundle.manifest.totalBytes, bundle.manifest.totalBytes), seen.last())
    }

    @Test
    fun `a folder without manifest is no bundle`() {
        assertFailsWith<NotABundle> { Bundle.open(folder.also { it.mkdirs() }) }
    }

    @Test
    fun `a half copied bundle is told from a whole one`() {
        BundleMaker(folder).make()
        File(folder, "model.litertlm").writeText("litert")
        assertTrue("model.litertlm has 6 bytes" in assertFailsWith<IncompleteBundle> { Bundle.open(folder) }.message!!)
        File(folder, "model.litertlm").delete()
        assertTrue("missing" in assertFailsWith<IncompleteBundle> { Bundle.open(folder) }.message!!)
    }

    @Test
    fun `a changed byte is found`() {
        BundleMaker(folder).make()
        File(folder, "model.pte").writeText("progrbm")
        val bundle = Bundle.open(folder)
        assertTrue("model.pte" in assertFailsWith<HashMismatch> { HashCheck.run(bundle) }.message!!)
    }

    @Test
    fun `hashing can be cancelled`() {
        val bundle = Bundle.open(BundleMaker(folder).make())
        val cancellation = Cancellation()
        assertFailsWith<Cancelled> { HashCheck.run(bundle, cancellation) { if (it.done > 0) cancellation.request() } }
    }

    @Test
    fun `a path out of the folder is refused`() {
        BundleMaker(folder).make { JsonTree.map(JsonTree.list(it["files"])[0])["path"] = "../secret" }
        assertFailsWith<UnsafePath> { Bundle.open(folder) }
    }

    @Test
    fun `a link out of the folder is refused`() {
        BundleMaker(folder).make()
        val secret = temporary.newFile("secret").also { it.writeText("program") }
        File(folder, "model.pte").delete()
        Files.createSymbolicLink(File(folder, "model.pte").toPath(), secret.toPath())
        assertFailsWith<UnsafePath> { Bundle.open(folder) }
    }

    @Test
    fun `a bundle is copied and checked on the way`() {
        val source = FolderSource(BundleMaker(folder).make())
        val target = temporary.newFolder("app")
        val progress = ArrayList<Progress>()
        val copy = BundleImporter().copy(source, target) { progress += it }
        HashCheck.run(Bundle.open(copy))
        assertEquals("nano-host-int4", copy.name)
        assertEquals(100, progress.last().percent)
        assertFalse(copy.listFiles()!!.any { it.name.endsWith(".part") })
    }

    @Test
    fun `a copy that broke off goes on with what is missing`() {
        val whole = BundleMaker(folder).make()
        val target = temporary.newFolder("app")
        val broken = FolderSource(whole, breaksAt = "model.ptd")
        assertFailsWith<IncompleteBundle> { BundleImporter().copy(broken, target) }
        val left = File(target, "nano-host-int4")
        assertFailsWith<NotABundle> { Bundle.open(left) }
        assertTrue(File(left, "model.litertlm").isFile)
        val second = FolderSource(whole)
        HashCheck.run(Bundle.open(BundleImporter().copy(second, target)))
        assertEquals(setOf("manifest.json", "model.ptd", "tokenizer.json", "vision.pte", "audio.pte"), second.opened)
    }

    @Test
    fun `copying refuses what the manifest does not promise`() {
        val target = temporary.newFolder("app")
        val whole = BundleMaker(folder).make()
        File(whole, "model.pte").writeText("programs")
        assertFailsWith<IncompleteBundle> { BundleImporter().copy(FolderSource(whole), target) }
        File(whole, "model.pte").writeText("progrbm")
        assertFailsWith<HashMismatch> { BundleImporter().copy(FolderSource(whole), target) }
        File(whole, "model.pte").delete()
        assertFailsWith<IncompleteBundle> { BundleImporter().copy(FolderSource(whole), target) }
        assertFailsWith<NotABundle> { BundleImporter().copy(FolderSource(target), target) }
    }

    @Test
    fun `copying needs room and a name that stays in its folder`() {
        val target = temporary.newFolder("app")
        val source = FolderSource(BundleMaker(folder).make { it["name"] = "../../etc/\u0000evil" })
        assertTrue("make room" in assertFailsWith<NoSpace> { BundleImporter { 10 }.copy(source, target) }.message!!)
        val copy = BundleImporter().copy(source, target)
        assertEquals(target, copy.parentFile)
    }

    @Test
    fun `a folder that does not exist yet is made and has the disk's room`() {
        val target = File(temporary.root, "files/bundles")
        val copy = BundleImporter().copy(FolderSource(BundleMaker(folder).make()), target)
        HashCheck.run(Bundle.open(copy))
    }

    @Test
    fun `what was hashed is known until a file changes`() {
        val checked = FileCheckedFiles(File(temporary.root, "deep/checked"))
        val bundle = Bundle.open(BundleMaker(folder).make())
        assertFalse(checked.isKnown(checked.state(bundle)))
        checked.remember(bundle, checked.state(bundle))
        assertTrue(FileCheckedFiles(File(temporary.root, "deep/checked")).isKnown(checked.state(Bundle.open(folder))))
        val copy = File(temporary.root, "copy")
        folder.copyRecursively(copy)
        assertFalse(checked.isKnown(checked.state(Bundle.open(copy))), "another folder")
        val program = File(folder, "model.pte")
        program.setLastModified(program.lastModified() + 2000)
        assertFalse(checked.isKnown(checked.state(Bundle.open(folder))))
    }

    @Test
    fun `attachments are deleted in their own folder only`() {
        val own = temporary.newFolder("attachments")
        val other = temporary.newFile("other.jpg")
        val names = listOf("a.jpg", "b.jpg", "c.jpg").map { File(own, it).apply { writeText("x") } }
        val files = FolderAttachments(own)
        files.delete(listOf(other, names[0]).map { Attachment(Attachment.Kind.IMAGE, it.path) })
        assertTrue(other.exists() && !names[0].exists())
        files.keepOnly(setOf(names[1].path))
        assertEquals(listOf("b.jpg"), own.list()!!.toList())
    }

    @Test
    fun `copying can be cancelled and leaves no bundle`() {
        val target = temporary.newFolder("app")
        val cancellation = Cancellation()
        val source = FolderSource(BundleMaker(folder).make())
        assertFailsWith<Cancelled> { BundleImporter().copy(source, target, cancellation) { cancellation.request() } }
        assertFailsWith<NotABundle> { Bundle.open(File(target, "nano-host-int4")) }
    }

    /** A folder behind the picker; [breaksAt] ends after half of its bytes. */
    private class FolderSource(private val folder: File, private val breaksAt: String? = null) : BundleSource {
        val opened = LinkedHashSet<String>()

        override fun open(path: String): InputStream? {
            val file = File(folder, path).takeIf { it.isFile } ?: return null
            opened += path
            val bytes = file.readBytes()
            return (if (path == breaksAt) bytes.copyOf(bytes.size / 2) else bytes).inputStream()
        }
    }
}
