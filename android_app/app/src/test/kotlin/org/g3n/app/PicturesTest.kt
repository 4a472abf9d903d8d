package org.g3n.app

import android.app.Activity
import android.view.View
import android.view.ViewGroup
import android.widget.Button
import android.widget.EditText
import android.widget.ScrollView
import android.widget.Spinner
import android.widget.TextView
import org.g3n.app.Screens.answered
import org.g3n.app.Screens.app
import org.g3n.app.Screens.bundle
import org.g3n.app.Screens.chat
import org.g3n.app.Screens.dialog
import org.g3n.app.Screens.isShown
import org.g3n.app.Screens.load
import org.g3n.app.Screens.memory
import org.g3n.app.Screens.press
import org.g3n.app.Screens.ready
import org.g3n.app.Screens.say
import org.g3n.app.Screens.started
import org.g3n.app.Screens.turns
import org.g3n.app.Screens.until
import org.g3n.core.JsonTree
import org.g3n.core.SignedBundle
import org.g3n.core.bundle.Device
import org.g3n.core.bundle.ManifestReader
import org.g3n.core.engine.Finish
import org.g3n.core.engine.Notice
import org.junit.Before
import org.junit.Test
import org.junit.runner.RunWith
import org.robolectric.ParameterizedRobolectricTestRunner
import org.robolectric.ParameterizedRobolectricTestRunner.Parameters
import org.robolectric.Robolectric
import org.robolectric.RuntimeEnvironment
import org.robolectric.annotation.Config
import org.robolectric.annotation.GraphicsMode
import java.io.File
import java.util.concurrent.Semaphore
import kotlin.test.assertEquals

/** The screens and their states in every setting, as pictures. */
@RunWith(ParameterizedRobolectricTestRunner::class)
@Config(application = TestApplication::class)
@GraphicsMode(GraphicsMode.Mode.NATIVE)
class PicturesTest(private val setting: String, private val qualifiers: String, private val fontScale: Float) {
    private val photographer by lazy { Photographer(setting) }

    /** Every state is drawn in the first setting, the ones with most on them in the others. */
    private val isFirst = setting == "phone"

    @Before
    fun set() {
        RuntimeEnvironment.setQualifiers(qualifiers)
        RuntimeEnvironment.setFontScale(fontScale)
        memory(8, 6000)
    }

    private fun shoot(name: String, activity: Activity? = null) {
        photographer.shoot(name)
        activity?.let { assertEquals(emptyList(), faults(it.window.decorView), "$setting/$name") }
    }

    @Test
    fun loading() {
        if (isFirst) {
            val empty = load()
            shoot("load-empty", empty.get())
            empty.pause().stop().destroy()
        }
        bundle("a-bundle-with-a-rather-long-name-e4b-android-int4-text-vision-audio")
        app.script.refuses = setOf(Device.ACCELERATOR)
        app.script.loads = Semaphore(0)
        memory(6, 400)
        val folder = bundle("e2b-android-int4") { manifest ->
            Screens.accelerated(manifest)
            JsonTree.map(manifest["parity"])["passed"] = false
        }
        val activity = ready(folder).get()
        shoot("load-ready", activity)
        activity.press(R.id.load)
        if (isFirst) shoot("load-loading", activity)
        app.script.loads.release()
        dialog()
        shoot("load-cpu-offer")
        photographer.report()
    }

    @Test
    fun chatting() {
        app.script.pieces = Semaphore(6)
        val activity = chat().get()
        if (isFirst) shoot("chat-empty", activity)
        activity.say("What is a river?")
        activity.view<EditText>(R.id.draft).setText("And what is a lake, then?")
        until("six pieces") { activity.turns.last().text == "A river is a large stream" }
        if (isFirst) shoot("chat-speaking", activity)
        activity.press(R.id.send)
        activity.answered()
        if (isFirst) shoot("chat-stopped", activity)
        app.script.pieces.release(1000)
        activity.press(R.id.retry)
        activity.answered()
        activity.say("And what is a lake, then? Tell me once more, and with many words, what it is and where its water goes.")
        activity.answered()
        shoot("chat-answered", activity)
        if (isFirst) {
            activity.press(R.id.attach)
            dialog()
            shoot("chat-attach")
        }
        photographer.report()
    }

    @Test
    fun rarely() {
        if (!isFirst) return
        val signed = SignedBundle(File(app.importFolder, "signed-by-a-stranger").apply { mkdirs() })
        // What was hashed earlier is said, and can be hashed again.
        repeat(2) { ready(signed.folder).also { if (it.get().isShown(R.id.check_again)) shoot("load-signed", it.get()) }.pause().stop().destroy() }
        val folder = bundle("short-of-memory") { manifest -> JsonTree.map(manifest["kv"])["bytes"] = 200L shl 20 }
        memory(8, 300)
        val load = ready(folder)
        load.get().view<Spinner>(R.id.runtime).setSelection(1)
        Screens.idle()
        shoot("load-shortened", load.get())
        load.pause().stop().destroy()
        memory(8, 6000)
        app.script.notice = Notice.CACHE_OFF
        app.script.finish = Finish.CONTEXT_FULL
        val activity = chat(folder).get()
        activity.say("What is a river?")
        activity.answered()
        shoot("chat-notices", activity)
        photographer.report()
    }

    @Test
    fun testing() {
        val folder = bundle { Screens.accelerated(it) }
        val golden = ManifestReader.read(folder).golden.associate { it.prompt to it.text }
        app.script.answer = { listOf(golden.getValue(it)) }
        val load = ready(folder)
        load.get().press(R.id.self_test)
        val intent = started(SelfTestActivity::class.java)
        load.pause().stop()
        val activity = Robolectric.buildActivity(SelfTestActivity::class.java, intent).setup().get()
        activity.press(R.id.run)
        until("the end") { activity.view<View>(R.id.run).isEnabled && !activity.isShown(R.id.running) }
        // Each row starts a smooth scroll, which drawing carries on: the picture is taken where none is left.
        val page = Screens.find(activity.window.decorView) { it is ScrollView }!!
        until("the top of the page") {
            Screens.settle()
            page.computeScroll()
            (page.scrollY == 0).also { page.scrollTo(0, 0) }
        }
        shoot("self-test", activity)
        photographer.report()
    }

    /** Controls too small for a finger, and texts that are cut, in words. */
    private fun faults(view: View): List<String> {
        if (!view.isShown) return emptyList()
        val found = ArrayList<String>()
        val name = if (view.id == View.NO_ID) view.javaClass.simpleName else view.resources.getResourceEntryName(view.id)
        val least = FINGER_DP * view.resources.displayMetrics.density
        // The system's own bar is not this app's; a bundle's name may be one word longer than the screen.
        val isOwn = view.id == View.NO_ID && view is Button || view.id != View.NO_ID && isOfApp(view)
        val isControl = isOwn && view.isClickable && !(view is TextView && view.isTextSelectable && view !is EditText)
        if (isControl && (view.height < least || view.width < least)) found += "$name is ${view.width}x${view.height}"
        val layout = (view as? TextView)?.layout
        if (layout != null) {
            if ((0 until layout.lineCount).any { layout.getEllipsisCount(it) > 0 }) found += "$name is cut"
            val needed = layout.height + view.compoundPaddingTop + view.compoundPaddingBottom
            if (needed > view.height && view !is EditText) found += "$name needs $needed of ${view.height}"
            val breaks = (1 until layout.lineCount).map(layout::getLineStart).filter { it in 1 until view.text.length }
            if (view is Button && isOfApp(view) && breaks.any { view.text[it - 1].isLetter() && view.text[it].isLetter() }) found += "$name breaks a word"
        }
        if (view is ViewGroup) for (i in 0 until view.childCount) found += faults(view.getChildAt(i))
        return found
    }

    private fun isOfApp(view: View): Boolean =
        view.id != View.NO_ID && view.resources.getResourcePackageName(view.id) == app.packageName

    companion object {
        private const val FINGER_DP = 47.5f
        private const val PHONE = "en-rUS-w411dp-h731dp-normal-long-notround-port-notnight-mdpi"

        @JvmStatic
        @Parameters(name = "{0}")
        fun settings(): List<Array<Any>> = listOf(
            arrayOf("phone", PHONE, 1f),
            arrayOf("night", PHONE.replace("notnight", "night"), 1f),
            arrayOf("large-font", PHONE, 2f),
            arrayOf("right-to-left", PHONE.replace("en-rUS", "ar-rEG-ldrtl"), 1f),
            arrayOf("landscape", "en-rUS-w731dp-h411dp-normal-long-notround-land-notnight-mdpi", 1f),
            arrayOf("tablet", "en-rUS-sw800dp-w1280dp-h800dp-xlarge-notlong-land-notnight-mdpi", 1f),
        )
    }
}
