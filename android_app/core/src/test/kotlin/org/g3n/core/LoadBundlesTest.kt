package org.g3n.core

import org.g3n.core.bundle.BundleSource
import org.g3n.core.bundle.Device
import org.g3n.core.bundle.HashMismatch
import org.g3n.core.bundle.InvalidSignature
import org.g3n.core.bundle.NotABundle
import org.g3n.core.bundle.Origin
import org.g3n.core.bundle.Runtime
import org.g3n.core.session.Session
import org.junit.Test
import java.io.File
import kotlin.test.assertEquals
import kotlin.test.assertIs
import kotlin.test.assertNotNull
import kotlin.test.assertNull
import kotlin.test.assertTrue

/** Bundles are listed, copied, checked and judged by who made them. */
class LoadBundlesTest : LoadPresenterTests() {
    @Test
    fun `bundles are listed where they lie`() {
        bundle("b")
        bundle("a")
        File(temporary.root, "no bundle").mkdirs()
        presenter().refresh()
        threads.run()
        assertEquals(listOf("a", "b"), view.bundles.map { it.name })
    }

    @Test
    fun `what is wrong with a bundle is shown`() {
        val presenter = presenter()
        presenter.check(temporary.newFolder("empty"))
        assertIs<NotABundle>(view.error)
        File(bundle(), "model.ptd").writeText("tablet")
        presenter.check(File(temporary.root, "nano"))
        assertIs<HashMismatch>(view.error)
        assertNull(presenter.bundle)
    }

    @Test
    fun `a bundle for another runtime is told so`() {
        presenter(runtimes = emptySet()).check(bundle())
        assertTrue("litert, executorch" in view.error!!.message!!)
    }

    @Test
    fun `checking can be cancelled`() {
        val presenter = presenter()
        view.onChecking = { presenter.cancel() }
        presenter.check(bundle())
        assertTrue(view.options.isEmpty())
        assertEquals(listOf("nano"), view.bundles.map { it.name })
    }

    @Test
    fun `a chosen folder is copied and checked`() {
        val source = bundle("chosen")
        val target = temporary.newFolder("app")
        val presenter = presenter()
        presenter.copyAndOpen(BundleSource { path -> File(source, path).takeIf { it.isFile }?.inputStream() }, target)
        threads.run()
        assertEquals(100, view.copying.last().percent)
        assertEquals(listOf("chosen"), view.bundles.map { it.name })
        assertEquals(File(target, "nano-host-int4"), assertNotNull(presenter.bundle).directory)
    }

    @Test
    fun `who made a bundle is shown and a key can be accepted`() {
        val signed = SignedBundle(temporary.newFolder("signed"))
        val presenter = presenter()
        presenter.check(signed.folder)
        assertEquals(Origin.Signed(signed.fingerprint) to false, view.origin)
        presenter.acceptKey("another")
        threads.run()
        assertEquals(false, view.origin?.second)
        presenter.acceptKey(signed.fingerprint)
        threads.run()
        assertEquals(Origin.Signed(signed.fingerprint) to true, view.origin)
        presenter.check(bundle())
        assertEquals(Origin.NotSigned to false, view.origin)
        presenter.check(signed.folder)
        assertEquals(Origin.Signed(signed.fingerprint) to true, view.origin)
    }

    @Test
    fun `a bundle with a broken signature is not opened`() {
        val signed = SignedBundle(temporary.newFolder("signed"))
        File(signed.folder, "manifest.json").appendText(" ")
        val presenter = presenter()
        presenter.check(signed.folder)
        assertIs<InvalidSignature>(view.error)
        assertNull(presenter.bundle)
        assertNull(view.origin)
    }

    @Test
    fun `a bundle is hashed once and again when asked`() {
        val presenter = presenter()
        presenter.check(bundle())
        assertEquals(false, view.prepared?.wasHashed)
        view.checking.clear()
        presenter.check(bundle())
        assertEquals(true, view.prepared?.wasHashed)
        assertTrue(view.checking.isEmpty())
        presenter.open(File(temporary.root, "nano"), isHashedAnew = true)
        threads.run()
        assertEquals(100, view.checking.last().percent)
    }

    @Test
    fun `the bundle of the last conversation is opened at start`() {
        val folder = bundle()
        store.save(Session(folder.path, Runtime.LITERT, Device.CPU, null, emptyList()))
        val presenter = presenter()
        presenter.restore()
        assertNull(view.prepared)
        threads.run()
        assertEquals(folder, view.prepared?.bundle?.directory)
    }

    @Test
    fun `a bundle of the last conversation that is gone is no error`() {
        store.save(Session("/gone", Runtime.LITERT, Device.CPU, null, emptyList()))
        presenter().restore()
        threads.run()
        assertNull(view.error)
    }

    @Test
    fun `a provider that fails is told and not fatal`() {
        val presenter = presenter()
        presenter.copyAndOpen(BundleSource { throw SecurityException("the right to read has ended") }, temporary.newFolder("app"))
        threads.run()
        assertEquals("the right to read has ended", view.error?.message)
        assertNull(view.busy)
    }
}
