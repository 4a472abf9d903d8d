package org.g3n.core

import org.g3n.core.bundle.Bundle
import org.g3n.core.chat.Role
import org.g3n.core.chat.Turn
import org.g3n.core.ui.Lane
import org.junit.Test
import kotlin.test.assertEquals
import kotlin.test.assertNull
import kotlin.test.assertTrue

/** A conversation outlives its screens and the process. */
class ChatKeptTest : ChatPresenterTests() {
    @Test
    fun `the end of the process in the middle of an answer loses at most a few pieces`() {
        val engine = FakeEngine()
        presenter(engine).apply {
            engine.beforePiece = { if (it == 3) throw ProcessDied() }
            edit("go")
            send()
        }
        runCatching { threads.run() }
        threads.run(Lane.STORAGE)
        val restored = ChatScreen()
        val second = FakeEngine()
        second.initialize(config)
        val presenter = chat(second, config, MemoryStore(store.json))
        presenter.attach(restored)
        assertEquals(listOf(Turn(Role.USER, "go"), Turn(Role.MODEL, "I do", isPartial = true)), restored.turns)
        assertTrue(restored.canRetry)
        presenter.retry()
        threads.run()
        assertEquals(listOf("go", "I do not know"), restored.turns.map { it.text })
    }

    @Test
    fun `a draft and turns survive rotation and restart`() {
        val presenter = presenter(FakeEngine())
        presenter.say("one")
        threads.run()
        presenter.edit("half a th")
        presenter.detach()
        threads.run()
        val turned = ChatScreen()
        presenter.attach(turned)
        assertEquals("half a th", turned.draft)
        assertEquals(view.end, turned.end)
        assertNull(turned.announced, "what was heard is not read again")
        val next = ChatScreen()
        chat(FakeEngine(), config, store).attach(next)
        assertEquals("half a th", next.draft)
        assertEquals(view.turns, next.turns)
    }

    @Test
    fun `an answer that ends while nobody looks is kept`() {
        val presenter = presenter(FakeEngine())
        presenter.say("one")
        presenter.detach()
        threads.run()
        presenter.attach(view)
        assertEquals("I do not know", view.turns.last().text)
    }

    @Test
    fun `another bundle does not get this conversation`() {
        presenter(FakeEngine()).say("one")
        threads.run()
        val other = config.copy(bundle = Bundle.open(BundleMaker(temporary.newFolder("other")).make()))
        val next = ChatScreen()
        chat(FakeEngine(), other, store).attach(next)
        assertEquals(emptyList(), next.turns)
    }

    @Test
    fun `nothing is read or written by the thread of the screen`() {
        val presenter = presenter(FakeEngine())
        presenter.say("one")
        presenter.detach()
        assertEquals(0, store.saves)
        threads.run(Lane.STORAGE)
        assertEquals(2, store.saves)
    }

    @Test
    fun `closing ends the answer and keeps it`() {
        val engine = FakeEngine()
        val presenter = presenter(engine)
        engine.beforePiece = { if (it == 2) presenter.close() }
        presenter.say("go")
        threads.run()
        assertEquals(Turn(Role.MODEL, "I do", isPartial = true), store.load()?.turns?.last())
    }

    private class ProcessDied : Error()
}
