package org.g3n.core

import org.g3n.core.bundle.Sampling
import org.g3n.core.chat.Role
import org.g3n.core.chat.Turn
import org.g3n.core.engine.Finish
import org.g3n.core.engine.Notice
import org.g3n.core.ui.Stats
import org.junit.Test
import kotlin.test.assertEquals
import kotlin.test.assertNull
import kotlin.test.assertTrue

/** Prompts are sent, answered, stopped and asked again. */
class ChatAnswersTest : ChatPresenterTests() {
    @Test
    fun `what a person should know of how the bundle was loaded is shown`() {
        presenter(FakeEngine().apply { notice = Notice.CACHE_OFF })
        assertEquals(Notice.CACHE_OFF, view.notice)
    }

    @Test
    fun `an answer streams in and is kept`() {
        val engine = FakeEngine(mapOf("hi" to listOf("Hel", "lo", "!")))
        presenter(engine).say(" hi ")
        assertEquals(listOf(Turn(Role.USER, "hi"), Turn(Role.MODEL, "", isPartial = true)), view.turns)
        assertTrue(view.isRunning)
        threads.run()
        assertEquals(listOf("Hel", "Hello", "Hello!"), view.answers)
        assertEquals(listOf(Turn(Role.USER, "hi"), Turn(Role.MODEL, "Hello!")), view.turns)
        assertEquals(Finish.END_OF_TURN, view.end?.finish)
        assertEquals("", view.draft)
        assertTrue(!view.isRunning && !view.canRetry)
        assertEquals(Stats(pieces = 3, firstTokenSeconds = 0.25, tokensPerSecond = 4.0, memoryBytes = 7L shl 20), view.end?.stats)
        assertEquals("Hello!", view.announced)
        assertEquals(view.turns, store.load()?.turns)
        assertEquals(config.bundle.manifest.sampling, engine.samplings.single())
    }

    @Test
    fun `a second turn carries the first and the sampling that was chosen`() {
        val engine = FakeEngine()
        val presenter = presenter(engine)
        presenter.say("one")
        threads.run()
        presenter.sampling = Sampling.GREEDY
        presenter.say("two")
        threads.run()
        assertEquals(listOf("one", "I do not know", "two"), engine.seen[1].map { it.text })
        assertEquals(Sampling.GREEDY, engine.samplings[1])
    }

    @Test
    fun `nothing is sent twice or empty`() {
        val engine = FakeEngine()
        val presenter = presenter(engine)
        presenter.say("   ")
        presenter.say("one")
        presenter.say("while it runs")
        threads.run()
        assertEquals(1, engine.seen.size)
        presenter.retry()
        threads.run()
        assertEquals(2, engine.seen.size, "a whole answer can be asked for again")
    }

    @Test
    fun `stop keeps what was said and offers to retry`() {
        val engine = FakeEngine()
        val presenter = presenter(engine)
        engine.beforePiece = { if (it == 2) presenter.stop() }
        presenter.say("go")
        threads.run()
        assertEquals(Turn(Role.MODEL, "I do", isPartial = true), view.turns.last())
        assertEquals(Finish.STOPPED, view.end?.finish)
        assertTrue(view.canRetry)
        engine.beforePiece = {}
        presenter.retry()
        threads.run()
        assertEquals(listOf("go", "I do not know"), view.turns.map { it.text })
        assertEquals(listOf("go"), engine.seen[1].map { it.text })
    }

    @Test
    fun `the length limit is told`() {
        presenter(FakeEngine(), maxNewTokens = 2).say("go")
        threads.run()
        assertEquals(Finish.LENGTH, view.end?.finish)
    }

    @Test
    fun `reset during an answer drops the answer`() {
        val engine = FakeEngine()
        val presenter = presenter(engine)
        engine.beforePiece = { if (it == 1) presenter.reset() }
        presenter.say("go")
        threads.run()
        assertEquals(emptyList(), view.turns)
        assertEquals(1, engine.resets)
        assertEquals(emptyList(), store.load()?.turns)
        engine.beforePiece = {}
        presenter.say("again")
        threads.run()
        assertEquals(listOf("again", "I do not know"), view.turns.map { it.text })
    }

    @Test
    fun `an engine that fails half way leaves its words and a way on`() {
        presenter(FakeEngine(failsAfter = 2)).say("go")
        threads.run()
        assertEquals("the driver was lost", view.error?.message)
        assertEquals(Turn(Role.MODEL, "I do", isPartial = true), view.turns.last())
        assertTrue(view.canRetry)
    }

    @Test
    fun `an engine that fails at once leaves the question`() {
        val presenter = presenter(FakeEngine(failsAfter = 0))
        presenter.say("go")
        threads.run()
        assertEquals(listOf(Turn(Role.USER, "go")), view.turns)
        assertTrue(view.canRetry)
        presenter.say("else")
        assertEquals(listOf("else", ""), view.turns.map { it.text }, "an unanswered turn gives way")
    }

    @Test
    fun `stop counts while the answer waits for the engine`() {
        val engine = FakeEngine()
        val presenter = presenter(engine)
        presenter.say("go")
        presenter.stop()
        threads.run()
        assertEquals(Finish.STOPPED, view.end?.finish)
        assertEquals(emptyList(), view.answers)
        assertTrue(view.canRetry && !view.isRunning)
        presenter.retry()
        threads.run()
        assertEquals("I do not know", view.turns.last().text, "an earlier stop ends no later answer")
    }

    @Test
    fun `what no engine should throw is told and not fatal`() {
        val presenter = presenter(FakeEngine(failsAfter = 1, failure = IllegalArgumentException("user and model must alternate")))
        presenter.say("go")
        threads.run()
        assertEquals("user and model must alternate", view.error?.message)
        assertTrue(view.canRetry)
        val turned = ChatScreen()
        presenter.attach(turned)
        assertEquals("user and model must alternate", turned.error?.message, "until it was seen")
        presenter.errorSeen()
        presenter.attach(ChatScreen().also { assertNull(it.error) })
    }

    @Test
    fun `a NUL character is refused before it reaches an engine and the draft stays`() {
        val engine = FakeEngine()
        val presenter = presenter(engine)
        presenter.say("What is\u0000 a dog?")
        threads.run()
        assertEquals("a NUL character in a prompt would end it there for some engines: leave it out", view.error?.message)
        assertEquals(emptyList(), engine.seen)
        assertEquals(emptyList(), view.turns)
        presenter.attach(view)
        assertEquals("What is\u0000 a dog?", view.draft)
        presenter.say("What is a dog?")
        threads.run()
        assertEquals("I do not know", view.turns.last().text)
    }

    @Test
    fun `a NUL character that an engine says is in no later prompt`() {
        val engine = FakeEngine(mapOf("hi" to listOf("He", "l\u0000", "lo")))
        val presenter = presenter(engine)
        presenter.say("hi")
        threads.run()
        assertEquals("Hel\uFFFDlo", view.turns.last().text)
        presenter.say("go on")
        threads.run()
        assertEquals(listOf("hi", "Hel\uFFFDlo", "go on"), engine.seen.last().map { it.text })
    }
}
