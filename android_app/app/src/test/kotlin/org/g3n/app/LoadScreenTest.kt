package org.g3n.app

import android.app.Activity
import android.content.DialogInterface.BUTTON_NEGATIVE
import android.content.DialogInterface.BUTTON_POSITIVE
import android.content.Intent
import android.provider.DocumentsContract
import android.view.View
import android.widget.Button
import android.widget.LinearLayout
import android.widget.Spinner
import org.g3n.app.Screens.app
import org.g3n.app.Screens.bundle
import org.g3n.app.Screens.dialog
import org.g3n.app.Screens.idle
import org.g3n.app.Screens.isShown
import org.g3n.app.Screens.load
import org.g3n.app.Screens.memory
import org.g3n.app.Screens.message
import org.g3n.app.Screens.press
import org.g3n.app.Screens.ready
import org.g3n.app.Screens.started
import org.g3n.app.Screens.text
import org.g3n.app.Screens.turn
import org.g3n.app.Screens.until
import org.g3n.core.BundleMaker
import org.g3n.core.JsonTree
import org.g3n.core.SignedBundle
import org.g3n.core.bundle.Device
import org.g3n.core.bundle.Runtime
import org.junit.Before
import org.junit.Test
import org.junit.runner.RunWith
import org.robolectric.Robolectric
import org.robolectric.RobolectricTestRunner
import org.robolectric.RuntimeEnvironment
import org.robolectric.Shadows.shadowOf
import org.robolectric.annotation.Config
import org.robolectric.shadows.ShadowDialog
import java.io.File
import java.text.Bidi
import java.util.concurrent.Semaphore
import kotlin.test.assertEquals
import kotlin.test.assertFalse
import kotlin.test.assertNull
import kotlin.test.assertTrue

@RunWith(RobolectricTestRunner::class)
@Config(application = TestApplication::class)
class LoadScreenTest {
    @Before
    fun set() = memory(8, 6000)

    @Test
    fun `a folder is imported on a fresh install and listed`() {
        val source = BundleMaker(File(app.cacheDir, "on the card")).make()
        Robolectric.setupContentProvider(FolderProvider::class.java, FolderProvider.AUTHORITY).folder = source
        val activity = load().get()
        assertFalse(app.importFolder.exists())
        activity.press(R.id.pick)
        val asked = shadowOf(activity).nextStartedActivityForResult.intent
        val tree = DocumentsContract.buildTreeDocumentUri(FolderProvider.AUTHORITY, "root")
        shadowOf(activity).receiveResult(asked, Activity.RESULT_OK, Intent().setData(tree))
        until("the verdict") { activity.isShown(R.id.ready) }
        val list = activity.view<LinearLayout>(R.id.bundles)
        assertEquals(listOf("nano-host-int4"), (0 until list.childCount).map { (list.getChildAt(it) as Button).text.toString() })
    }

    @Test
    fun `a provider that fails is told`() {
        Robolectric.setupContentProvider(FolderProvider::class.java, FolderProvider.AUTHORITY)
        val activity = load().get()
        activity.press(R.id.pick)
        val asked = shadowOf(activity).nextStartedActivityForResult.intent
        val tree = DocumentsContract.buildTreeDocumentUri(FolderProvider.AUTHORITY, "root")
        shadowOf(activity).receiveResult(asked, Activity.RESULT_OK, Intent().setData(tree))
        assertTrue("the app that holds the files failed" in dialog().message)
    }

    @Test
    fun `a phone without a picker says so`() {
        val activity = load().get()
        shadowOf(app).checkActivities(true)
        activity.press(R.id.pick)
        assertEquals(app.getString(R.string.no_app), dialog().message)
    }

    @Test
    fun `turning keeps the checked bundle and what was chosen of it`() {
        val controller = ready(bundle { Screens.accelerated(it) })
        controller.get().view<Spinner>(R.id.runtime).setSelection(1)
        idle()
        controller.get().view<Spinner>(R.id.device).setSelection(1)
        idle()
        val fit = controller.get().text(R.id.fit)
        controller.turn()
        assertTrue(controller.get().isShown(R.id.ready))
        assertEquals(1, controller.get().view<Spinner>(R.id.runtime).selectedItemPosition)
        assertEquals(1, controller.get().view<Spinner>(R.id.device).selectedItemPosition)
        assertEquals(fit, controller.get().text(R.id.fit))
        controller.get().press(R.id.load)
        until("loading") { app.script.config != null }
        assertEquals("executorch cpu", app.script.config?.let { "${it.runtime.id} ${it.device.id}" })
    }

    @Test
    fun `turning while an engine loads shows that it does, and the screen stays on`() {
        app.script.loads = Semaphore(0)
        val controller = ready()
        controller.get().press(R.id.load)
        val said = controller.get().text(R.id.busy_text)
        controller.turn()
        until("the list") { controller.get().view<LinearLayout>(R.id.bundles).childCount > 0 }
        val turned = controller.get()
        assertTrue(turned.isShown(R.id.busy) && turned.view<View>(R.id.busy).keepScreenOn)
        assertEquals(said, turned.text(R.id.busy_text))
        assertFalse(turned.view<View>(R.id.pick).isEnabled)
        app.script.loads.release()
        until("the chat") { started(ChatActivity::class.java) != null }
    }

    @Test
    fun `an engine that fails on the CPU leaves the bundle ready`() {
        app.script.refuses = setOf(Device.CPU)
        val activity = ready().get()
        activity.press(R.id.load)
        assertEquals("not enough memory", dialog().message)
        dialog().press(BUTTON_POSITIVE)
        assertTrue(activity.isShown(R.id.ready))
    }

    @Test
    fun `an accelerator that refuses offers the CPU, also after turning`() {
        app.script.refuses = setOf(Device.ACCELERATOR)
        val controller = ready(bundle { Screens.accelerated(it) })
        controller.get().press(R.id.load)
        assertEquals("no OpenCL library on this device", dialog().message)
        controller.turn()
        assertEquals("no OpenCL library on this device", dialog().message)
        dialog().press(BUTTON_POSITIVE)
        until("the chat") { started(ChatActivity::class.java) != null }
        assertEquals(Device.CPU, app.script.config?.device)
        ShadowDialog.reset()
        controller.turn()
        assertNull(ShadowDialog.getLatestDialog())
    }

    @Test
    fun `a question is asked again after turning`() {
        memory(2, 1500)
        val controller = ready(bundle { Screens.leastRam(it, 8) })
        controller.get().press(R.id.load)
        val asked = dialog().message
        assertTrue("8 GB" in asked, asked)
        controller.turn()
        assertEquals(asked, dialog().message)
        dialog().press(BUTTON_NEGATIVE)
        assertNull(app.script.config)
    }

    @Test
    fun `a context that memory made shorter is said, and what is loaded`() {
        val folder = bundle { manifest -> JsonTree.map(manifest["kv"])["bytes"] = 200L shl 20 }
        memory(8, 300)
        val activity = ready(folder).get()
        // ExecuTorch, which takes less, comes first.
        activity.view<Spinner>(R.id.runtime).setSelection(1)
        idle()
        val said = activity.text(R.id.fit)
        assertTrue(said.startsWith("Fits: "), said)
        val context = app.loader.config(Runtime.LITERT, Device.CPU)!!.context
        assertTrue(context in 1024 until 4096)
        assertTrue(said.endsWith("\n" + activity.getString(R.string.fit_context, context, 4096)), said)
        activity.press(R.id.load)
        until("loading") { app.script.config != null }
        assertEquals(context, app.script.config?.context)
    }

    @Test
    fun `sizes keep their places in a right-to-left sentence`() {
        RuntimeEnvironment.setQualifiers("ar-rEG-ldrtl")
        memory(4, 200)
        val text = ready().get().text(R.id.fit)
        // All of it runs one way: no letter, digit or mark turns the order round.
        assertTrue(text.startsWith("Tight: needs up to 259 MB, 105 MB are free."), text)
        assertFalse(Bidi(text, Bidi.DIRECTION_LEFT_TO_RIGHT).isMixed)
    }

    @Test
    fun `an elastic bundle offers no size that no engine runs`() {
        val size = mapOf(
            "parameters" to 9L, "layers" to listOf(0L), "ffn_dims" to listOf(8L), "core_bytes" to 9L,
            "peak" to mapOf("load" to 9L, "prefill" to 9L, "decode" to 9L), "least_device_ram" to 9L,
            "signatures" to listOf("decode"), "delegation" to null, "parity" to null,
        )
        val activity = ready(bundle { manifest -> manifest["sizes"] = listOf("e4b", "e2b").map { size + ("name" to it) } }).get()
        assertFalse(activity.isShown(R.id.size))
        activity.press(R.id.load)
        until("the chat") { started(ChatActivity::class.java) != null }
        assertNull(app.script.config?.size)
    }

    @Test
    fun `a second start hashes nothing and offers to`() {
        val folder = bundle()
        ready(folder).pause().stop().destroy()
        val activity = ready(folder).get()
        assertTrue(activity.getString(R.string.load_was_hashed) in activity.text(R.id.summary))
        activity.press(R.id.check_again)
        until("the verdict") { activity.isShown(R.id.ready) }
        assertFalse(activity.isShown(R.id.check_again))
    }

    @Test
    fun `who signed a bundle is shown, and a key is accepted after a question that outlives turning`() {
        val signed = SignedBundle(File(app.importFolder, "signed").apply { mkdirs() })
        val groups = signed.fingerprint.split('-')
        assertEquals(8, groups.size)
        // Broken between two groups and not within one.
        val shown = groups.take(4).joinToString("-") + "-\n" + groups.drop(4).joinToString("-")
        val controller = ready(signed.folder)
        assertEquals(app.getString(R.string.origin_unknown, shown), controller.get().text(R.id.origin))
        controller.get().press(R.id.accept_key)
        val asked = dialog().message
        assertEquals(app.getString(R.string.origin_accept_message, shown), asked)
        controller.turn()
        assertEquals(asked, dialog().message)
        dialog().press(BUTTON_POSITIVE)
        until("the key is known") { !controller.get().isShown(R.id.accept_key) }
        assertEquals(app.getString(R.string.origin_accepted, shown), controller.get().text(R.id.origin))
    }

    @Test
    fun `an app without engines says so`() {
        app.engines = Engines
        assertTrue(Engines.runtimes.isEmpty())
        assertTrue(load().get().isShown(R.id.no_engines))
    }
}
