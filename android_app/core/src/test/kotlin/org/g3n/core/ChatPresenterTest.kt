package org.g3n.core

import org.g3n.core.bundle.Bundle
import org.g3n.core.bundle.Device
import org.g3n.core.bundle.Modality
import org.g3n.core.bundle.Runtime
import org.g3n.core.bundle.Sampling
import org.g3n.core.chat.Attachment
import org.g3n.core.chat.Role
import org.g3n.core.chat.Turn
import org.g3n.core.engine.EngineConfig
import org.g3n.core.engine.Finish
import org.g3n.core.engine.Notice
import org.g3n.core.ui.AnswerEnd
import org.g3n.core.ui.ChatEnvironment
import org.g3n.core.ui.ChatPresenter
import org.g3n.core.ui.ChatView
import org.g3n.core.ui.Lane
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
    private val files = MemoryFiles()
    private val view = RecordingView()
    private lateinit var config: EngineConfig

    @Before
    fun openBundle() {
        val bundle = Bundle.open(BundleMaker(temporary.newFolder("nano")).make())
        config = EngineConfig(bundle, Runtime.LITERT, Device.CPU, threads = 2, cacheDirectory = null)
    }

    private fun presenter(engine: FakeEngine, maxNewTokens: Int = 100, saveEvery: Int = 2): ChatPresenter {
        engine.initialize(config)
        return chat(engine, config, store, maxNewTokens, saveEvery).also { it.attach(view) }
    }

    private fun chat(
        engine: FakeEngine,
        config: EngineConfig,
        store: MemoryStore,
        maxNewTokens: Int = 100,
        saveEvery: Int = 2,
    ): ChatPresenter {
        if (engine.config == null) engine.initialize(config)
        val environment = ChatEnvironment(store, files, threads, TickingClock()) { 7L shl 20 }
        return ChatPresenter(engine, config, store.load(), environment, maxNewTokens, saveEvery)
    }

    private fun ChatPresenter.say(text: String) {
        edit(text)
        send()
    }

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
    fun `the end of the process in the middle of an answer loses at most a few pieces`() {
        val engine = FakeEngine()
        presenter(engine).apply {
            engine.beforePiece = { if (it == 3) throw ProcessDied() }
            edit("go")
            send()
        }
        runCatching { threads.run() }
        threads.run(Lane.STORAGE)
        val restored = RecordingView()
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
        val turned = RecordingView()
        presenter.attach(turned)
        assertEquals("half a th", turned.draft)
        assertEquals(view.end, turned.end)
        assertNull(turned.announced, "what was heard is not read again")
        val next = RecordingView()
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
        val next = RecordingView()
        chat(FakeEngine(), other, store).attach(next)
        assertEquals(emptyList(), next.turns)
    }

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
    fun `nothing is read or written by the thread of the screen`() {
        val presenter = presenter(FakeEngine())
        presenter.say("one")
        presenter.detach()
        assertEquals(0, store.saves)
        threads.run(Lane.STORAGE)
        assertEquals(2, store.saves)
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
        val next = RecordingView()
        chat(FakeEngine(), config, store).attach(next)
        assertEquals("a.wav", next.attachments.single().path)
    }

    @Test
    fun `what no engine should throw is told and not fatal`() {
        val presenter = presenter(FakeEngine(failsAfter = 1, failure = IllegalArgumentException("user and model must alternate")))
        presenter.say("go")
        threads.run()
        assertEquals("user and model must alternate", view.error?.message)
        assertTrue(view.canRetry)
        val turned = RecordingView()
        presenter.attach(turned)
        assertEquals("user and model must alternate", turned.error?.message, "until it was seen")
        presenter.errorSeen()
        presenter.attach(RecordingView().also { assertNull(it.error) })
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

    private class RecordingView : ChatView {
        var turns: List<Turn> = emptyList()
        val answers = ArrayList<String>()
        var draft = ""
        var attachments: List<Attachment> = emptyList()
        var isRunning = false
        var canRetry = false
        var end: AnswerEnd? = null
        var notice: Notice? = null
        var announced: String? = null
        var error: Throwable? = null

        override fun showTurns(turns: List<Turn>, isRunning: Boolean) {
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

        override fun showNotice(notice: Notice?) {
            this.notice = notice
        }

        override fun showEnd(end: AnswerEnd?) {
            this.end = end
        }

        override fun announce(answer: String) {
            announced = answer
        }

        override fun showError(error: Throwable) {
            this.error = error
        }
    }
}
