package org.g3n.core

import org.g3n.core.bundle.Device
import org.g3n.core.bundle.InvalidManifest
import org.g3n.core.bundle.Runtime
import org.g3n.core.chat.Attachment
import org.g3n.core.chat.Role
import org.g3n.core.chat.Turn
import org.g3n.core.session.FileSessionStore
import org.g3n.core.session.Session
import org.g3n.core.session.SessionJson
import org.junit.Rule
import org.junit.Test
import org.junit.rules.TemporaryFolder
import java.io.File
import kotlin.test.assertEquals
import kotlin.test.assertFailsWith
import kotlin.test.assertNull

class SessionTest {
    @get:Rule
    val temporary = TemporaryFolder()

    private val session = Session(
        "/data/local/tmp/g3n/nano",
        Runtime.EXECUTORCH,
        Device.ACCELERATOR,
        "half",
        listOf(
            Turn(Role.SYSTEM, "be \"brief\""),
            Turn(Role.USER, "日本語\n\u0000\uD83D\uDC4D", listOf(Attachment(Attachment.Kind.SOUND, "/a/b.wav"))),
            Turn(Role.MODEL, "half an ans", isPartial = true),
        ),
        "draft",
        listOf(Attachment(Attachment.Kind.IMAGE, "/a/c.jpg")),
    )

    @Test
    fun `a session comes back as it was`() {
        assertEquals(session, SessionJson.read(SessionJson.write(session)))
        assertEquals(session.copy(size = null), SessionJson.read(SessionJson.write(session.copy(size = null))))
        val earlier = SessionJson.write(session).replace(Regex("\"attached\":\\[[^]]*],"), "")
        assertEquals(session.copy(attachments = emptyList()), SessionJson.read(earlier), "as versions before wrote it")
        assertEquals(setOf("/a/b.wav", "/a/c.jpg"), session.files)
    }

    @Test
    fun `a file that is no session counts as none`() {
        val file = File(temporary.root, "deep/session.json")
        val store = FileSessionStore(file)
        assertNull(store.load())
        store.save(session)
        assertEquals(session, store.load())
        val whole = file.readText()
        for (text in listOf("", whole.dropLast(9), "[]", "{}", whole.replace("USER", "ROBOT"), whole.replace("\"draft\"", "\"x\""))) {
            file.writeText(text)
            assertNull(store.load(), text.take(30))
        }
        file.writeText(" ".repeat(9 shl 20))
        assertNull(store.load())
    }

    @Test
    fun `a later version is refused`() {
        val later = SessionJson.write(session).replace("\"version\":1", "\"version\":2")
        assertFailsWith<InvalidManifest> { SessionJson.read(later) }
    }
}
