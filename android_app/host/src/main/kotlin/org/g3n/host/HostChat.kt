package org.g3n.host

import com.google.gson.JsonArray
import com.google.gson.JsonObject
import org.g3n.core.bundle.Device
import org.g3n.core.bundle.Runtime
import org.g3n.core.bundle.Sampling
import org.g3n.core.chat.Attachment
import org.g3n.core.chat.FolderAttachments
import org.g3n.core.chat.Turn
import org.g3n.core.device.DeviceMemory
import org.g3n.core.engine.Notice
import org.g3n.core.session.FileAcceptedKeys
import org.g3n.core.session.FileCheckedFiles
import org.g3n.core.session.FileSessionStore
import org.g3n.core.ui.AnswerEnd
import org.g3n.core.ui.Busy
import org.g3n.core.ui.ChatEnvironment
import org.g3n.core.ui.ChatPresenter
import org.g3n.core.ui.ChatView
import org.g3n.core.ui.Choice
import org.g3n.core.ui.Lane
import org.g3n.core.ui.LoadEnvironment
import org.g3n.core.ui.LoadPresenter
import org.g3n.core.ui.LoadView
import org.g3n.core.ui.Prepared
import org.g3n.core.ui.Threads
import java.io.File
import kotlin.system.exitProcess

/**
 * The app without its screens: the presenters check and load a bundle, then say prompts greedily and print the turns.
 *
 * Arguments: bundle folder, runtime, tokens an answer may have, session file, then prompts, before which
 * `--image=FILE` and `--sound=FILE` attach something and `--stop=N` stops the answer after its first N pieces. System properties
 * `g3n.shims` (folder of the native shims) and `g3n.litertlm` (path of LiteRT-LM's library) say where the engines are;
 * `g3n.way` (a [HostEngines.Way]) asks for one way through ExecuTorch, `g3n.device` for a [Device], `g3n.cache` names a folder that
 * engines may keep something in, and `g3n.free` says how many bytes of memory are free. Where an accelerator refuses, the CPU is taken.
 */
fun main(arguments: Array<String>) {
    val (bundle, runtime, limit, session) = arguments
    val threads = WorkQueue()
    val chat = HostChat(File(bundle), Runtime.of(runtime), limit.toInt(), File(session), threads)
    val out = chat.say(arguments.drop(4))
    println(out)
    // Threads of the engines are still there.
    exitProcess(if (out.has("error")) 1 else 0)
}

/** Runs background work where the test waits for it. */
private class WorkQueue : Threads {
    private val waiting = ArrayDeque<() -> Unit>()

    override fun background(lane: Lane, work: () -> Unit) {
        waiting.addLast(work)
    }

    override fun main(work: () -> Unit) = work()

    fun run() {
        while (true) (waiting.removeFirstOrNull() ?: return)()
    }
}

private class HostChat(
    private val bundle: File,
    private val runtime: Runtime,
    private val limit: Int,
    private val session: File,
    private val threads: WorkQueue,
) {
    private val screen = Screen()
    private val store = FileSessionStore(session)
    private val loader = LoadPresenter(
        emptyList(),
        HostEngines(System.getProperty("g3n.way")?.let(HostEngines.Way::valueOf)),
        LoadEnvironment(
            ::hostMemory, threads, System.getProperty("g3n.cache")?.let(::File), engineThreads = 1,
            keys = FileAcceptedKeys(File(session.path + ".keys")), checked = FileCheckedFiles(File(session.path + ".checked")), store,
        ),
    ) { engine, config, kept ->
        val environment = ChatEnvironment(store, FolderAttachments(File(session.path + ".attachments")), threads, System::nanoTime)
        ChatPresenter(engine, config, kept, environment, limit)
    }

    /** Says each of [prompts] after the other in one conversation; the turns, finishes and speed as JSON. */
    fun say(prompts: List<String>): JsonObject {
        loader.attach(screen)
        loader.open(bundle)
        threads.run()
        if (screen.error == null) {
            val device = System.getProperty("g3n.device")?.let(Device::valueOf) ?: Device.CPU
            // The app's own choice of a size, as its screen passes it on.
            val size = screen.prepared?.options?.firstOrNull { it.runtime == runtime }?.size
            loader.choose(Choice(runtime, device, size?.name))
            loader.load()
            threads.run()
            // Without an offer this changes nothing.
            loader.answerOffer(useCpu = true)
            threads.run()
        }
        val chat = loader.chat ?: return screen.report()
        chat.sampling = Sampling.GREEDY
        chat.attach(screen)
        for (prompt in prompts) {
            val (option, path) = prompt.split('=', limit = 2).let { it.first() to it.last() }
            val kind = KINDS[option]
            when {
                kind != null -> chat.add(Attachment(kind, path))
                option == STOP -> screen.onPiece = stopAfter(path.toInt(), chat)
                else -> {
                    chat.edit(prompt)
                    chat.send()
                    threads.run()
                    screen.onPiece = {}
                }
            }
        }
        loader.release()
        threads.run()
        return screen.report()
    }

    private fun stopAfter(pieces: Int, chat: ChatPresenter): () -> Unit {
        var seen = 0
        return { if (++seen == pieces) chat.stop() }
    }

    private companion object {
        const val STOP = "--stop"
        val KINDS = mapOf("--image" to Attachment.Kind.IMAGE, "--sound" to Attachment.Kind.SOUND)
    }

    private fun hostMemory(): DeviceMemory {
        val kib = File("/proc/meminfo").readLines().associate { line ->
            line.substringBefore(':') to line.filter { it.isDigit() }.toLong()
        }
        System.getProperty("g3n.free")?.let { return DeviceMemory(kib.getValue("MemTotal") shl 10, it.toLong(), 0) }
        return DeviceMemory(kib.getValue("MemTotal") shl 10, kib.getValue("MemAvailable") shl 10, 0)
    }
}

private class Screen : LoadView, ChatView {
    var error: Throwable? = null
    var onPiece: () -> Unit = {}
    private var turns: List<Turn> = emptyList()
    private val finishes = JsonArray()
    private val pieces = JsonArray()
    var prepared: Prepared? = null
        private set
    private var notice: Notice? = null
    private var offer: String? = null

    fun report() = JsonObject().apply {
        addProperty("verdict", prepared?.options?.first()?.fit?.verdict?.name)
        addProperty("notice", notice?.name)
        addProperty("offer", offer)
        add("finishes", finishes)
        add("pieces", pieces)
        add("turns", JsonArray().apply { turns.forEach { add(turn(it)) } })
        error?.let { addProperty("error", it.message) }
    }

    private fun turn(turn: Turn) = JsonObject().apply {
        addProperty("role", turn.role.name)
        addProperty("text", turn.text)
        addProperty("partial", turn.isPartial)
    }

    override fun showPrepared(prepared: Prepared?) {
        this.prepared = prepared
    }

    override fun showTurns(turns: List<Turn>, isRunning: Boolean) {
        this.turns = turns
    }

    override fun showNotice(notice: Notice?) {
        this.notice = notice
    }

    override fun showEnd(end: AnswerEnd?) {
        end?.let { finishes.add(it.finish.name) }
        end?.stats?.let { pieces.add(it.pieces) }
    }

    override fun announce(answer: String) = Unit

    override fun showError(error: Throwable) {
        this.error = error
    }

    override fun offerCpu(reason: String) {
        offer = reason
    }

    override fun showBundles(bundles: List<File>) = Unit

    override fun showBusy(busy: Busy?) = Unit

    override fun showResume(isPossible: Boolean) = Unit

    override fun openChat() = Unit

    override fun showAnswer(text: String) = onPiece()

    override fun showDraft(text: String) = Unit

    override fun showAttachments(attachments: List<Attachment>) = Unit

    override fun showState(isRunning: Boolean, canRetry: Boolean) = Unit
}
