package org.g3n.core

import org.g3n.core.bundle.Bundle
import org.g3n.core.bundle.Device
import org.g3n.core.bundle.Runtime
import org.g3n.core.bundle.Sampling
import org.g3n.core.chat.Attachment
import org.g3n.core.chat.Role
import org.g3n.core.chat.Turn
import org.g3n.core.engine.EngineConfig
import org.g3n.core.engine.Finish
import org.g3n.core.ui.ChatPresenter
import org.g3n.core.ui.ChatView
import org.g3n.core.ui.Stats
import org.junit.Before
import org.junit.Rule
import org.junit.Test
import org.junit.rules.TemporaryFolder
import kotlin.test.assertEquals
import kotlin.test.assertNull
import kotlin.test.assertTrue

class ChatPresenterTest {
    @get:Rule
    val temporary = TemporaryFolder()

    private val threads = QueuedThreads()
    private val store = MemoryStore()
    private val view = RecordingView()
    private lateinit var config: EngineConfig

    @Before
    fun openBundle() {
        val bundle = Bundle.open(BundleMaker(temporary.newFolder("nano")).make())
        config = EngineConfig(bundle, Runtime.LITERT, Device.CPU, threads = 2, cacheDirectory = null)
    }

    private fun presenter(engine: FakeEngine, maxNewTokens: Int = 100, saveEvery: Int = 2): ChatPresenter {
        engine.initialize(config)
        return ChatPresenter(engine, config, store, threads, TickingClock(), maxNewTokens, saveEvery).also { it.attach(view) }
    }

    private fun ChatPresenter.say(text: String) {
        edit(text)
        send()
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
        assertEquals(Finish.END_OF_TURN, view.finish)
        assertEquals("", view.draft)
        assertTrue(!view.isRunning && !view.canRetry)
        assertEquals(Stats(pieces = 3, firstTokenSeconds = 0.25, tokensPerSecond = 4.0), view.stats)
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
        assertEquals(Finish.STOPPED, view.finish)
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
        assertEquals(Finish.LENGTH, view.finish)
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
        assertNull(store.load())
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
    fun `the end of the process in the middle of an answer loses at most a few pieces`() {
        val engine = FakeEngine()
        presenter(engine).apply {
            engine.beforePiece = { if (it == 3) throw ProcessDied() }
            edit("go")
            send()
        }
        runCatching { threads.run() }
        val restored = RecordingView()
        val second = FakeEngine()
        second.initialize(config)
        val presenter = ChatPresenter(second, config, MemoryStore(store.json), threads, TickingClock())
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
        presenter.attach(view)
        assertEquals("half a th", view.draft)
        val next = RecordingView()
        ChatPresenter(FakeEngine(), config, store, threads, TickingClock()).attach(next)
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
        val next = RecordingView()
        ChatPresenter(FakeEngine(), other, store, threads, TickingClock()).attach(next)
        assertEquals(emptyList(), next.turns)
    }

    @Test
    fun `attachments go only to bundles that take them`() {
        val blind = Bundle.open(
            BundleMaker(temporary.newFolder("blind")).make { JsonTree.map(it["model"])["modalities"] = listOf("text") },
        )
        val first = ChatPresenter(FakeEngine(), config.copy(bundle = blind), MemoryStore(), threads, TickingClock())
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

    private class ProcessDied : Error()

    private class RecordingView : ChatView {
        var turns: List<Turn> = emptyList()
        val answers = ArrayList<String>()
        var draft = ""
        var attachments: List<Attachment> = emptyList()
        var isRunning = false
        var canRetry = false
        var stats: Stats? = null
        var finish: Finish? = null
        var error: Throwable? = null

        override fun showTurns(turns: List<Turn>) {
            this.turns = turns
        }

        override fun showAnswer(text: String) {
            answers += text
        }

        override fun showDraft(text: String) {
            draft = text
        }

        override fun showAttachments(attachments: List<Attachment>) {
            this.attachments = attachments
        }

        override fun showState(isRunning: Boolean, canRetry: Boolean) {
            this.isRunning = isRunning
            this.canRetry = canRetry
        }

        override fun showStats(stats: Stats) {
            this.stats = stats
        }

        override fun showFinish(finish: Finish) {
            this.finish = finish
        }

        override fun showError(error: Throwable) {
            this.error = error
        }
    }
}
