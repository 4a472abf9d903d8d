package org.g3n.app

import android.app.Activity
import android.media.AudioRecord
import android.net.Uri
import android.os.Bundle
import android.os.Looper
import android.provider.MediaStore
import android.widget.EditText
import android.widget.TextView
import org.g3n.app.Screens.answered
import org.g3n.app.Screens.app
import org.g3n.app.Screens.attach
import org.g3n.app.Screens.chat
import org.g3n.app.Screens.dialog
import org.g3n.app.Screens.gallery
import org.g3n.app.Screens.isShown
import org.g3n.app.Screens.memory
import org.g3n.app.Screens.message
import org.g3n.app.Screens.say
import org.g3n.app.Screens.started
import org.g3n.app.Screens.text
import org.g3n.app.Screens.turn
import org.g3n.app.Screens.turns
import org.g3n.app.Screens.until
import org.g3n.core.chat.WaveFile
import org.junit.Before
import org.junit.Test
import org.junit.runner.RunWith
import org.robolectric.Robolectric
import org.robolectric.RobolectricTestRunner
import org.robolectric.Shadows.shadowOf
import org.robolectric.annotation.Config
import org.robolectric.annotation.GraphicsMode
import org.robolectric.shadows.ShadowAudioRecord
import java.io.ByteArrayInputStream
import java.io.File
import java.util.Collections
import java.util.concurrent.CountDownLatch
import java.util.concurrent.atomic.AtomicInteger
import kotlin.test.assertEquals
import kotlin.test.assertFalse
import kotlin.test.assertNotNull
import kotlin.test.assertTrue

/** Pictures and recordings, from the button to the file that an engine is given. */
@RunWith(RobolectricTestRunner::class)
@Config(application = TestApplication::class)
@GraphicsMode(GraphicsMode.Mode.NATIVE)
class AttachScreenTest {
    @Before
    fun set() = memory(8, 6000)

    @Test
    fun `a picture lying on its side is set upright and brought to the encoder's side`() {
        val activity = chat().get()
        activity.gallery(Pictures.jpeg(1500, 1000, orientation = 6))
        until("the picture") { activity.isShown(R.id.attached) }
        val picture = Pictures.read(app.attachments.listFiles()!!.single())
        assertEquals(512 to 768, picture.width to picture.height)
        // The left third was red: turned clockwise it is on top.
        assertTrue(Pictures.isRed(picture.getPixel(256, 100)) && !Pictures.isRed(picture.getPixel(256, 600)))
    }

    @Test
    fun `a picture that cannot be read is told`() {
        val activity = chat().get()
        activity.gallery("no picture".encodeToByteArray())
        assertTrue("no picture that this phone can read" in dialog().message)
        assertEquals(emptyList(), app.attachments.list()!!.toList())
    }

    @Test
    fun `a gallery that fails is told`() {
        val activity = chat().get()
        activity.gallery { throw SecurityException("the right to read has ended") }
        assertEquals("the app that holds the files failed: the right to read has ended", dialog().message)
        assertEquals(emptyList(), app.attachments.list()!!.toList())
    }

    @Test
    fun `a picture is read by another thread than the one that draws`() {
        val activity = chat().get()
        val readers = Collections.synchronizedSet(HashSet<Thread>())
        activity.gallery {
            readers += Thread.currentThread()
            ByteArrayInputStream(Pictures.jpeg(80, 60, orientation = 1))
        }
        until("the picture") { activity.isShown(R.id.attached) }
        assertFalse(Looper.getMainLooper().thread in readers)
        assertEquals(1, readers.size)
    }

    @Test
    fun `a picture that is removed leaves no file`() {
        val activity = chat().get()
        activity.gallery(Pictures.jpeg(80, 60, orientation = 1))
        until("the picture") { activity.isShown(R.id.attached) }
        activity.attach(3)
        until("no file") { app.attachments.list()!!.isEmpty() }
        assertFalse(activity.isShown(R.id.attached))
    }

    @Test
    fun `a phone without a camera says so, and one whose camera is left takes no picture`() {
        val activity = chat().get()
        activity.attach(1)
        shadowOf(activity).receiveResult(shadowOf(activity).nextStartedActivityForResult.intent, Activity.RESULT_CANCELED, null)
        assertEquals(emptyList(), app.attachments.list()!!.toList())
        shadowOf(app).checkActivities(true)
        activity.attach(1)
        assertEquals(app.getString(R.string.no_app), dialog().message)
        assertEquals(emptyList(), app.attachments.list()!!.toList())
        assertFalse(activity.isShown(R.id.attached))
    }

    @Test
    fun `the camera's photo comes whole`() {
        val activity = chat().get()
        activity.attach(1)
        val asked = shadowOf(activity).nextStartedActivityForResult.intent
        assertEquals(MediaStore.ACTION_IMAGE_CAPTURE, asked.action)
        @Suppress("DEPRECATION")
        val uri = asked.getParcelableExtra<Uri>(MediaStore.EXTRA_OUTPUT)!!
        app.contentResolver.openOutputStream(uri)!!.use { it.write(Pictures.jpeg(1600, 1200, orientation = 1)) }
        shadowOf(activity).receiveResult(asked, Activity.RESULT_OK, null)
        until("the photo") { activity.isShown(R.id.attached) }
        val picture = Pictures.read(app.attachments.listFiles()!!.single())
        assertEquals(768 to 576, picture.width to picture.height)
    }

    @Test
    fun `a photo taken while the system ended the process is kept with the draft`() {
        val controller = chat()
        controller.get().say("What is a river?")
        controller.get().answered()
        controller.get().view<EditText>(R.id.draft).setText("and this?")
        controller.get().attach(1)
        val state = Bundle()
        controller.saveInstanceState(state).pause().stop().destroy()
        app.attachments.listFiles()!!.single().writeBytes(Pictures.jpeg(800, 600, orientation = 1))
        app.loader.release()
        val next = Robolectric.buildActivity(ChatActivity::class.java).create(state)
        assertTrue(next.get().isFinishing)
        assertNotNull(started(LoadActivity::class.java))
        until("the photo") { app.attachments.list()!!.any { it.startsWith("picture") } }
        val loaded = chat(File(app.importFolder, "nano-host-int4")).get()
        assertEquals("and this?", loaded.text(R.id.draft))
        assertEquals(2, loaded.turns.size)
        assertTrue(loaded.isShown(R.id.attached))
    }

    @Test
    fun `new conversation deletes what was attached`() {
        val activity = chat().get()
        activity.gallery(Pictures.jpeg(80, 60, orientation = 1))
        until("the picture") { activity.isShown(R.id.attached) }
        activity.say("What is this?")
        activity.answered()
        assertEquals(1, app.attachments.list()!!.size)
        shadowOf(activity).clickMenuItem(1)
        until("no file") { app.attachments.list()!!.isEmpty() }
        assertEquals(emptyList(), activity.turns)
    }

    @Test
    fun `recording ends at 30 seconds and says so`() {
        val activity = chat().get()
        record(activity, 40f)
        assertEquals(activity.getString(R.string.chat_record_limit, 30), activity.text(R.id.status))
        assertTrue(activity.isShown(R.id.attached))
    }

    @Test
    fun `a slip of the finger is no recording`() {
        val activity = chat().get()
        record(activity, 0f)
        assertEquals(activity.getString(R.string.chat_record_short), activity.text(R.id.status))
        assertFalse(activity.isShown(R.id.attached))
        assertEquals(emptyList(), app.attachments.list()!!.toList())
    }

    @Test
    fun `a microphone that another app has is told and leaves no file`() {
        val activity = chat().get()
        record(activity) { _, _ -> AudioRecord.ERROR_INVALID_OPERATION }
        assertEquals(activity.getString(R.string.chat_record_failed), activity.text(R.id.status))
        assertFalse(activity.isShown(R.id.attached))
        assertEquals(emptyList(), app.attachments.list()!!.toList())
    }

    @Test
    fun `a recording ends when the phone is turned, and what was said is attached`() {
        val controller = chat()
        val reads = AtomicInteger()
        val turned = CountDownLatch(1)
        record(controller.get(), ends = { reads.get() > 10 }) { _, size ->
            // A second is heard at once, and then the microphone has nothing more until the phone is turned.
            if (reads.incrementAndGet() > 10) turned.await()
            size
        }
        controller.turn()
        turned.countDown()
        until("the recording") { controller.get().isShown(R.id.attached) }
        val seconds = (app.attachments.listFiles()!!.single().length() - WaveFile.HEADER_BYTES).toFloat() / WaveFile.BYTES_PER_SECOND
        assertTrue(seconds in 1f..1.2f, "$seconds")
        assertFalse(controller.get().isShown(R.id.record_stop))
    }

    private fun record(activity: ChatActivity, seconds: Float) {
        var left = (seconds * 16_000).toInt() * 2
        record(activity) { _, size ->
            if (left <= 0) activity.view<TextView>(R.id.record_stop).performClick()
            left -= size * 2
            size
        }
    }

    /** Records what [source] gives, the samples that were read, into an array with room for so many. */
    private fun record(activity: ChatActivity, ends: (() -> Boolean)? = null, source: (ShortArray, Int) -> Int) {
        shadowOf(app).grantPermissions(android.Manifest.permission.RECORD_AUDIO)
        ShadowAudioRecord.setSourceProvider {
            object : ShadowAudioRecord.AudioRecordSource {
                override fun readInShortArray(audioData: ShortArray, offset: Int, size: Int, isBlocking: Boolean): Int =
                    source(audioData, size)
            }
        }
        activity.attach(2)
        until("the end of the recording", ends ?: { !activity.isShown(R.id.record_stop) })
    }
}
