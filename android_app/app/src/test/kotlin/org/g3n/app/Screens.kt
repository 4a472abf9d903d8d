package org.g3n.app

import android.app.Activity
import android.app.ActivityManager
import android.app.AlertDialog
import android.content.Context
import android.content.Intent
import android.content.res.Configuration
import android.net.Uri
import android.os.Looper
import android.view.View
import android.view.ViewGroup
import android.widget.Button
import android.widget.EditText
import android.widget.LinearLayout
import android.widget.ListView
import android.widget.TextView
import org.g3n.core.BundleMaker
import org.g3n.core.JsonTree
import org.g3n.core.chat.Turn
import org.robolectric.Robolectric
import org.robolectric.RuntimeEnvironment
import org.robolectric.Shadows.shadowOf
import org.robolectric.android.controller.ActivityController
import org.robolectric.shadows.ShadowDialog
import java.io.ByteArrayInputStream
import java.io.File
import java.io.InputStream
import java.time.Duration

/** What a person does with the screens, and what they see. */
internal object Screens {
    val app: TestApplication get() = RuntimeEnvironment.getApplication() as TestApplication

    /** Runs what waits on the main looper until [done] or a minute has passed. */
    fun until(what: String, done: () -> Boolean) {
        val end = System.nanoTime() + 60_000_000_000
        while (true) {
            idle()
            if (done()) return
            check(System.nanoTime() < end) { "waited in vain for: $what" }
            Thread.sleep(2)
        }
    }

    fun idle() = shadowOf(Looper.getMainLooper()).idle()

    /** Lets every animation that has begun come to its end. */
    fun settle() = shadowOf(Looper.getMainLooper()).idleFor(Duration.ofSeconds(2))

    fun memory(totalGib: Int, freeMib: Int) {
        val manager = app.getSystemService(Context.ACTIVITY_SERVICE) as ActivityManager
        shadowOf(manager).setMemoryInfo(
            ActivityManager.MemoryInfo().apply {
                totalMem = totalGib.toLong() shl 30
                availMem = freeMib.toLong() shl 20
                threshold = 100L shl 20
            },
        )
    }

    /** A bundle in the app's own folder, of files of a few bytes. */
    fun bundle(name: String = "nano-host-int4", change: (MutableMap<String, Any?>) -> Unit = {}): File =
        BundleMaker(File(app.importFolder, name)).make {
            it["name"] = name
            change(it)
        }

    fun accelerated(manifest: MutableMap<String, Any?>) =
        JsonTree.list(manifest["subgraphs"]).forEach { JsonTree.map(it)["device"] = "accelerator" }

    fun leastRam(manifest: MutableMap<String, Any?>, gib: Int) =
        JsonTree.map(manifest["memory"]).values.forEach { JsonTree.map(it)["least_device_ram"] = gib.toLong() shl 30 }

    fun load(): ActivityController<LoadActivity> {
        val controller = Robolectric.buildActivity(LoadActivity::class.java).setup()
        until("the list") { controller.get().view<LinearLayout>(R.id.bundles).childCount > 0 }
        return controller
    }

    fun ready(folder: File = bundle()): ActivityController<LoadActivity> {
        val controller = load()
        controller.get().choose(folder.name)
        until("the verdict") { controller.get().isShown(R.id.ready) }
        return controller
    }

    fun LoadActivity.choose(name: String) {
        val list = view<LinearLayout>(R.id.bundles)
        (0 until list.childCount).map { list.getChildAt(it) as Button }.first { it.text == name }.performClick()
    }

    /** The chat with [folder]'s bundle, opened the way a person opens it. */
    fun chat(folder: File = bundle()): ActivityController<ChatActivity> {
        val controller = ready(folder)
        controller.get().press(R.id.load)
        until("the chat") { started(ChatActivity::class.java) != null }
        controller.pause().stop()
        return Robolectric.buildActivity(ChatActivity::class.java).setup()
    }

    /** The intent that started [screen] last, if one did. */
    fun started(screen: Class<out Activity>): Intent? {
        while (true) {
            val intent = shadowOf(app).nextStartedActivity ?: return null
            if (intent.component?.className == screen.name) return intent
        }
    }

    fun ChatActivity.say(text: String) {
        view<EditText>(R.id.draft).setText(text)
        press(R.id.send)
    }

    /** Takes an entry of the menu of attachments. */
    fun ChatActivity.attach(choice: Int) {
        press(R.id.attach)
        val list = dialog().listView
        list.performItemClick(list.adapter.getView(choice, null, list), choice, choice.toLong())
        idle()
    }

    /** Chooses a picture of these [bytes] in the gallery. */
    fun ChatActivity.gallery(bytes: ByteArray) = gallery { ByteArrayInputStream(bytes) }

    /** Chooses a picture in the gallery, which that app then opens. */
    fun ChatActivity.gallery(open: () -> InputStream) {
        attach(0)
        val uri = Uri.parse("content://gallery/1")
        shadowOf(contentResolver).registerInputStreamSupplier(uri, open)
        val asked = shadowOf(this).nextStartedActivityForResult.intent
        shadowOf(this).receiveResult(asked, Activity.RESULT_OK, Intent().setData(uri))
    }

    val ChatActivity.turns: List<Turn>
        get() = view<ListView>(R.id.turns).adapter.let { adapter -> (0 until adapter.count).map { adapter.getItem(it) as Turn } }

    val ChatActivity.isAnswering: Boolean get() = text(R.id.send) == getString(R.string.chat_stop)

    fun ChatActivity.answered() = until("the end of the answer") { !isAnswering }

    fun Activity.press(id: Int) {
        check(view<View>(id).isEnabled && isShown(id)) { "${resources.getResourceEntryName(id)} cannot be pressed" }
        view<View>(id).performClick()
        idle()
    }

    fun Activity.text(id: Int): String = view<TextView>(id).text.toString()

    fun Activity.isShown(id: Int): Boolean = view<View>(id).isShown

    fun dialog(): AlertDialog {
        until("a dialog") { ShadowDialog.getLatestDialog()?.isShowing == true }
        return ShadowDialog.getLatestDialog() as AlertDialog
    }

    val AlertDialog.message: String get() = (findViewById(android.R.id.message) as TextView).text.toString()

    fun AlertDialog.press(button: Int) {
        getButton(button).performClick()
        idle()
    }

    /** Turns the phone: the activity is made anew. */
    fun <A : Activity> ActivityController<A>.turn() {
        val before = get()
        val isLandscape = before.resources.configuration.orientation == Configuration.ORIENTATION_LANDSCAPE
        RuntimeEnvironment.setQualifiers(if (isLandscape) "+port" else "+land")
        configurationChange(app.resources.configuration).visible()
        check(before !== get()) { "the activity was not made anew" }
        idle()
    }

    fun find(view: View, test: (View) -> Boolean): View? {
        if (test(view)) return view
        if (view is ViewGroup) for (i in 0 until view.childCount) find(view.getChildAt(i), test)?.let { return it }
        return null
    }
}
