package org.g3n.app

import android.app.Activity
import android.content.Intent
import android.os.Bundle
import android.provider.DocumentsContract
import android.widget.EditText
import android.widget.Spinner
import com.google.gson.JsonArray
import com.google.gson.JsonObject
import org.g3n.app.Screens.answered
import org.g3n.app.Screens.app
import org.g3n.app.Screens.choose
import org.g3n.app.Screens.gallery
import org.g3n.app.Screens.idle
import org.g3n.app.Screens.isShown
import org.g3n.app.Screens.load
import org.g3n.app.Screens.memory
import org.g3n.app.Screens.press
import org.g3n.app.Screens.say
import org.g3n.app.Screens.started
import org.g3n.app.Screens.text
import org.g3n.app.Screens.turn
import org.g3n.app.Screens.turns
import org.g3n.app.Screens.until
import org.g3n.core.bundle.Modality
import org.g3n.core.bundle.Runtime
import org.g3n.core.bundle.Sampling
import org.junit.Before
import org.junit.FixMethodOrder
import org.junit.Test
import org.junit.runner.RunWith
import org.junit.runners.MethodSorters
import org.robolectric.Robolectric
import org.robolectric.RobolectricTestRunner
import org.robolectric.Shadows.shadowOf
import org.robolectric.android.controller.ActivityController
import org.robolectric.annotation.Config
import org.robolectric.annotation.GraphicsMode
import java.io.File
import kotlin.test.assertEquals
import kotlin.test.assertNotNull
import kotlin.test.assertTrue

/**
 * A person's way through the real screens over the real engines and a compiled bundle.
 *
 * Each test is a life of the process: it begins with what the one before has left in the app's files. What was said is
 * written down, and the Python side compares it with its own.
 */
@RunWith(RobolectricTestRunner::class)
@Config(application = AppWithEngines::class)
@GraphicsMode(GraphicsMode.Mode.NATIVE)
@FixMethodOrder(MethodSorters.NAME_ASCENDING)
class RealEnginesTest {
    @Before
    fun set() = memory(8, 6000)

    @Test
    fun `1 a folder is imported, judged and loaded, and answers while the phone is turned`() {
        Robolectric.setupContentProvider(FolderProvider::class.java, FolderProvider.AUTHORITY).folder = AppWithEngines.property("bundle")
        val load = load()
        load.get().press(R.id.pick)
        val asked = shadowOf(load.get()).nextStartedActivityForResult.intent
        val tree = DocumentsContract.buildTreeDocumentUri(FolderProvider.AUTHORITY, "root")
        shadowOf(load.get()).receiveResult(asked, Activity.RESULT_OK, Intent().setData(tree))
        until("the verdict") { load.get().isShown(R.id.ready) }
        assertTrue(load.get().text(R.id.fit).startsWith("Fits:"), load.get().text(R.id.fit))
        val chat = load.chat(Runtime.LITERT)
        chat.get().say(PROMPT)
        chat.turn()
        chat.get().answered()
        chat.get().view<EditText>(R.id.draft).setText(NEXT)
        record("litert", chat.get())
        val state = Bundle()
        chat.saveInstanceState(state).pause().stop().destroy()
        saved = state
    }

    @Test
    fun `2 a new process goes on with the conversation in the other runtime`() {
        val ended = Robolectric.buildActivity(ChatActivity::class.java).create(saved)
        assertTrue(ended.get().isFinishing)
        assertNotNull(started(LoadActivity::class.java))
        val load = load()
        until("the verdict") { load.get().isShown(R.id.ready) }
        assertTrue(load.get().getString(R.string.load_was_hashed) in load.get().text(R.id.summary))
        val chat = load.chat(Runtime.EXECUTORCH)
        assertEquals(NEXT, chat.get().text(R.id.draft))
        chat.get().press(R.id.send)
        chat.get().answered()
        record("executorch", chat.get())
        shadowOf(chat.get()).clickMenuItem(NEW_CONVERSATION)
        chat.pause().stop()
    }

    @Test
    fun `3 the self-test passes, and a picture from the gallery is answered`() {
        val load = load()
        until("the verdict") { load.get().isShown(R.id.ready) }
        load.take(Runtime.LITERT)
        load.get().press(R.id.self_test)
        val intent = started(SelfTestActivity::class.java)
        load.pause().stop()
        val test = Robolectric.buildActivity(SelfTestActivity::class.java, intent).setup()
        test.get().press(R.id.run)
        test.turn()
        until("the summary") { "CPU against the host:" in test.get().text(R.id.results) }
        val said = test.get().text(R.id.results)
        assertTrue(said.endsWith("CPU against the host: same. Accelerator against the CPU: not used by this bundle."), said)
        test.pause().stop()
        load.restart().start().resume()
        val chat = load.chat(Runtime.LITERT)
        assertEquals(Modality.VISION in app.loader.bundle!!.manifest.modalities, chat.get().isShown(R.id.attach))
        if (chat.get().isShown(R.id.attach)) {
            chat.get().gallery(AppWithEngines.property("picture").readBytes())
            until("the picture") { chat.get().isShown(R.id.attached) }
            chat.get().say(ABOUT_PICTURE)
            chat.get().answered()
        }
        record("picture", chat.get())
        chat.pause().stop()
    }

    private fun ActivityController<LoadActivity>.take(runtime: Runtime) {
        val prepared = app.loader.bundle!!.manifest.runtimes
        assertEquals(Runtime.entries.toSet(), prepared.toSet())
        val spinner = get().view<Spinner>(R.id.runtime)
        val names = (0 until spinner.adapter.count).map { spinner.adapter.getItem(it) as String }
        spinner.setSelection(names.indexOf(Texts.runtime(runtime)))
        idle()
    }

    /** The chat, loaded for [runtime] the way a person does it, where every token is the likeliest. */
    private fun ActivityController<LoadActivity>.chat(runtime: Runtime): ActivityController<ChatActivity> {
        take(runtime)
        get().press(R.id.load)
        until("the chat") { started(ChatActivity::class.java) != null }
        pause().stop()
        assertNotNull(app.loader.chat).sampling = Sampling.GREEDY
        return Robolectric.buildActivity(ChatActivity::class.java).setup()
    }

    private fun record(name: String, chat: ChatActivity) {
        val turns = JsonArray()
        for (turn in chat.turns) {
            turns.add(
                JsonObject().apply {
                    addProperty("role", turn.role.name)
                    addProperty("text", turn.text)
                    turn.attachments.singleOrNull()?.let { addProperty("picture", it.path) }
                },
            )
        }
        File(AppWithEngines.property("files"), "$name.json").writeText(turns.toString())
    }

    private companion object {
        const val PROMPT = "Reverse: stone river house"
        const val NEXT = "Write as JSON: a person named Paul is 31 and lives in Rome."
        const val ABOUT_PICTURE = "What digit is this?"
        const val NEW_CONVERSATION = 1

        /** What the system keeps of a screen whose process it ends. */
        var saved: Bundle? = null
    }
}
