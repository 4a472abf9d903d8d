package org.g3n.app

import android.content.ComponentCallbacks2
import android.view.accessibility.AccessibilityManager
import android.widget.EditText
import android.widget.TextView
import org.g3n.app.Screens.answered
import org.g3n.app.Screens.app
import org.g3n.app.Screens.attach
import org.g3n.app.Screens.bundle
import org.g3n.app.Screens.chat
import org.g3n.app.Screens.choose
import org.g3n.app.Screens.dialog
import org.g3n.app.Screens.isAnswering
import org.g3n.app.Screens.isShown
import org.g3n.app.Screens.load
import org.g3n.app.Screens.memory
import org.g3n.app.Screens.message
import org.g3n.app.Screens.press
import org.g3n.app.Screens.say
import org.g3n.app.Screens.started
import org.g3n.app.Screens.text
import org.g3n.app.Screens.turn
import org.g3n.app.Screens.turns
import org.g3n.app.Screens.until
import org.g3n.core.bundle.Modality
import org.g3n.core.engine.Finish
import org.g3n.core.engine.Notice
import org.junit.Before
import org.junit.Test
import org.junit.runner.RunWith
import org.robolectric.Robolectric
import org.robolectric.RobolectricTestRunner
import org.robolectric.Shadows.shadowOf
import org.robolectric.android.controller.ActivityController
import org.robolectric.annotation.Config
import org.robolectric.annotation.GraphicsMode
import java.io.File
import java.util.concurrent.Semaphore
import kotlin.test.assertEquals
import kotlin.test.assertFalse
import kotlin.test.assertNotNull
import kotlin.test.assertTrue

@RunWith(RobolectricTestRunner::class)
@Config(application = TestApplication::class)
@GraphicsMode(GraphicsMode.Mode.NATIVE)
class ChatScreenTest {
    @Before
    fun set() = memory(8, 6000)

    @Test
    fun `a coming answer is not called interrupted and a stopped one is`() {
        app.script.pieces = Semaphore(4)
        val controller = chat()
        val activity = controller.get()
        activity.say("What is a river?")
        until("four pieces") { activity.turns.last().text == "A river is a" }
        fun speaker() = Screens.find(activity.view(R.id.turns)) { it.id == R.id.speaker && (it as TextView).text.startsWith("Gemma") }
        assertEquals("Gemma", (speaker() as TextView).text.toString())
        activity.press(R.id.send)
        activity.answered()
        activity.window.decorView.layout(0, 0, 320, 470)
        until("the row") { (speaker() as? TextView)?.text.toString() == "Gemma (interrupted)" }
        assertTrue(activity.isShown(R.id.retry))
    }

    @Test
    fun `turning keeps a coming answer and the draft`() {
        app.script.pieces = Semaphore(4)
        val controller = chat()
        controller.get().say("What is a river?")
        controller.get().view<EditText>(R.id.draft).setText("typed while it speaks")
        until("four pieces") { controller.get().turns.last().text == "A river is a" }
        controller.turn()
        app.script.pieces.release(100)
        until("the end") { controller.get().turns.last().text.endsWith("the sea.") && !controller.get().isAnswering }
        assertEquals("typed while it speaks", controller.get().text(R.id.draft))
        val said = controller.get().text(R.id.status)
        assertTrue("tokens per second" in said && "memory in use" in said, said)
        assertFalse(app.wasAskedWhileDrawing)
        controller.turn()
        assertEquals(said, controller.get().text(R.id.status))
    }

    @Test
    fun `an answer is announced once`() {
        val manager = app.getSystemService(AccessibilityManager::class.java)
        shadowOf(manager).setEnabled(true)
        val controller = chat()
        controller.get().say("What is a river?")
        controller.get().answered()
        controller.turn()
        val heard = shadowOf(manager).sentAccessibilityEvents.flatMap { it.text }.map { it.toString() }
        assertEquals(1, heard.count { it == "Gemma: A river is a large stream of water that flows to the sea." }, "$heard")
        assertTrue(heard.any { it.startsWith("Loading for") }, "$heard")
    }

    @Test
    fun `attachments are offered only where the engine takes them`() {
        app.script.takes = setOf(Modality.TEXT)
        assertFalse(chat().get().isShown(R.id.attach))
    }

    @Test
    fun `a full context is told`() {
        app.script.finish = Finish.CONTEXT_FULL
        val activity = chat().get()
        activity.say("go on")
        activity.answered()
        assertTrue(activity.text(R.id.status).startsWith(activity.getString(R.string.chat_context_full)))
    }

    @Test
    fun `leaving a chat that speaks leaves the other screens free, and there is a way back`() {
        app.script.pieces = Semaphore(2)
        val controller = chat()
        controller.get().say("What is a river?")
        controller.pause().stop().destroy()
        bundle("another")
        val activity = load().get()
        activity.choose("another")
        until("the verdict") { activity.isShown(R.id.ready) }
        activity.press(R.id.resume)
        assertNotNull(started(ChatActivity::class.java))
        app.script.pieces.release(100)
        val back = Robolectric.buildActivity(ChatActivity::class.java).setup().get()
        back.answered()
        assertTrue(back.turns.last().text.endsWith("the sea."))
    }

    @Test
    fun `an engine freed for want of memory leads back to loading with the conversation kept`() {
        val controller: ActivityController<ChatActivity> = chat()
        controller.get().say("What is a river?")
        controller.get().answered()
        controller.pause().stop()
        @Suppress("DEPRECATION")
        app.onTrimMemory(ComponentCallbacks2.TRIM_MEMORY_MODERATE)
        controller.restart().start()
        assertTrue(controller.get().isFinishing)
        assertEquals(2, chat(File(app.importFolder, "nano-host-int4")).get().turns.size)
    }

    @Test
    fun `a cache that was read back wrongly is told`() {
        app.script.notice = Notice.CACHE_OFF
        val activity = chat().get()
        assertEquals(activity.getString(R.string.chat_cache_off), activity.text(R.id.status))
        activity.say("What is a river?")
        activity.answered()
        assertTrue(activity.text(R.id.status).startsWith(activity.getString(R.string.chat_cache_off) + "\n"))
    }

    @Test
    fun `an engine that fails is told until it was seen`() {
        app.script.failsAfter = 2
        val controller = chat()
        controller.get().say("What is a river?")
        assertEquals("the driver was lost", dialog().message)
        controller.turn()
        assertEquals("the driver was lost", dialog().message)
    }

    @Test
    fun `stop pressed before the first piece ends the answer`() {
        app.script.pieces = Semaphore(0)
        val activity = chat().get()
        activity.say("What is a river?")
        assertTrue(activity.isAnswering)
        activity.press(R.id.send)
        activity.answered()
        assertEquals("", activity.turns.last().text)
        assertTrue(activity.isShown(R.id.retry))
        app.script.pieces.release(100)
        activity.press(R.id.retry)
        activity.answered()
        assertTrue(activity.turns.last().text.endsWith("the sea."))
    }

    @Test
    fun `a text with a NUL is not sent and stays`() {
        val activity = chat().get()
        activity.say("What is a river\u0000?")
        assertTrue("a NUL character in a prompt" in dialog().message)
        assertEquals(emptyList(), activity.turns)
        assertEquals("What is a river\u0000?", activity.text(R.id.draft))
    }
}
