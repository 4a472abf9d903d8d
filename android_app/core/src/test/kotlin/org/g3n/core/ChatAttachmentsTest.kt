package org.g3n.core

import org.g3n.core.bundle.Bundle
import org.g3n.core.bundle.Modality
import org.g3n.core.chat.Attachment
import org.junit.Test
import kotlin.test.assertEquals
import kotlin.test.assertTrue

/** Pictures and sounds go to engines that take them, and their files go when nothing names them. */
class ChatAttachmentsTest : ChatPresenterTests() {
    @Test
    fun `attachments go only to bundles that take them`() {
        val blind = Bundle.open(
            BundleMaker(temporary.newFolder("blind")).make { JsonTree.map(it["model"])["modalities"] = listOf("text") },
        )
        val first = chat(FakeEngine(), config.copy(bundle = blind), MemoryStore())
        first.attach(view)
        first.add(Attachment(Attachment.Kind.IMAGE, "a.jpg"))
        assertTrue("--modalities text,vision" in view.error!!.message!!)
        assertEquals(emptyList(), view.attachments)
        val engine = FakeEngine()
        val second = presenter(engine)
        second.add(Attachment(Attachment.Kind.IMAGE, "a.jpg"))
        assertEquals("a.jpg", view.attachments.single().path)
        second.removeAttachments()
        second.add(Attachment(Attachment.Kind.IMAGE, "b.jpg"))
        second.say("")
        threads.run()
        assertEquals("b.jpg", engine.seen.single().single().attachments.single().path)
        assertEquals(emptyList(), view.attachments)
    }

    @Test
    fun `an engine that takes text only offers and takes no attachment`() {
        val presenter = presenter(FakeEngine(takes = setOf(Modality.TEXT)))
        assertEquals(setOf(Modality.TEXT), presenter.modalities)
        presenter.add(Attachment(Attachment.Kind.IMAGE, "a.jpg"))
        assertTrue("load it with LiteRT" in view.error!!.message!!)
        assertEquals(emptyList(), view.attachments)
        threads.run()
        assertEquals(listOf("a.jpg"), files.deleted)
    }

    @Test
    fun `files of attachments go when nothing names them`() {
        val presenter = presenter(FakeEngine(failsAfter = 0))
        fun attach(name: String) = presenter.add(Attachment(Attachment.Kind.IMAGE, name))
        attach("a.jpg")
        presenter.removeAttachments()
        threads.run()
        assertEquals(listOf("a.jpg"), files.deleted)
        attach("b.jpg")
        presenter.say("never answered")
        threads.run()
        attach("c.jpg")
        presenter.say("instead")
        threads.run()
        assertEquals(listOf("a.jpg", "b.jpg"), files.deleted)
        attach("d.jpg")
        presenter.reset()
        threads.run()
        assertEquals(listOf("a.jpg", "b.jpg", "c.jpg"), files.deleted)
        chat(FakeEngine(), config, store)
        threads.run()
        assertEquals(setOf("d.jpg"), files.kept, "what earlier processes left behind goes")
    }

    @Test
    fun `attachments of a draft survive the end of the process`() {
        presenter(FakeEngine()).add(Attachment(Attachment.Kind.SOUND, "a.wav"))
        threads.run()
        val next = ChatScreen()
        chat(FakeEngine(), config, store).attach(next)
        assertEquals("a.wav", next.attachments.single().path)
    }
}
