package org.g3n.core.ui

import org.g3n.core.bundle.Modality
import org.g3n.core.bundle.Sampling
import org.g3n.core.chat.Attachment
import org.g3n.core.chat.AttachmentFiles
import org.g3n.core.chat.NUL
import org.g3n.core.chat.Role
import org.g3n.core.chat.Turn
import org.g3n.core.engine.Answer
import org.g3n.core.engine.Engine
import org.g3n.core.engine.EngineConfig
import org.g3n.core.engine.EngineException
import org.g3n.core.engine.Finish
import org.g3n.core.engine.StopSignal
import org.g3n.core.engine.requireNoNul
import org.g3n.core.session.Session
import org.g3n.core.session.SessionStore

/**
 * What a conversation needs of the device and the app's storage.
 *
 * @property memory bytes that the app occupies; may be slow, and is called off the main thread.
 */
class ChatEnvironment(
    val store: SessionStore,
    val files: AttachmentFiles,
    val threads: Threads,
    val clock: Clock,
    val memory: () -> Long? = { null },
)

/**
 * The conversation: sends, streams, stops, resets, and keeps everything across the end of the process.
 *
 * @param kept the session that was kept last; taken up if it is one with this bundle.
 * @param saveEvery pieces of an answer between two saves.
 */
class ChatPresenter(
    private val engine: Engine,
    private val config: EngineConfig,
    kept: Session?,
    private val environment: ChatEnvironment,
    private val maxNewTokens: Int = 1024,
    private val saveEvery: Int = 16,
) {
    private val threads = environment.threads
    private var view: ChatView? = null
    private val turns = ArrayList<Turn>()
    private val attachments = ArrayList<Attachment>()
    private var draft = ""
    private var end: AnswerEnd? = null
    private var error: Throwable? = null

    /** The Stop button of the answer that is coming. */
    private var running: StopSignal? = null

    /** Whether an answer is coming. */
    val isRunning: Boolean get() = running != null

    /** Grows when a conversation is reset, so that an answer to an older one is dropped. */
    private var generation = 0

    /** How tokens are drawn; the bundle's own defaults at first. */
    var sampling: Sampling = config.bundle.manifest.sampling

    /** What can be sent: what the bundle has and the loaded engine takes. */
    val modalities: Set<Modality> get() = engine.modalities intersect config.bundle.manifest.modalities

    init {
        val mine = kept?.takeIf { it.bundlePath == config.bundle.directory.path }
        mine?.let {
            turns += it.turns
            draft = it.draft
            attachments += it.attachments
        }
        threads.background(Lane.STORAGE) { environment.files.keepOnly(mine?.files.orEmpty()) }
    }

    fun attach(view: ChatView) {
        this.view = view
        view.showTurns(turns.toList(), isRunning)
        view.showDraft(draft)
        view.showAttachments(attachments.toList())
        view.showNotice(engine.notice)
        view.showEnd(end)
        showState()
        error?.let(view::showError)
    }

    /** The view goes away; what it shows is kept. */
    fun detach() {
        view = null
        save()
    }

    /** Ends the answer that is coming and keeps the conversation: the engine will be freed. */
    fun close() {
        stop()
        detach()
    }

    /** The user has typed. */
    fun edit(text: String) {
        draft = text
    }

    /** Adds a picture or sound to the turn being written; one that cannot be sent is deleted. */
    fun add(attachment: Attachment) {
        val needed = if (attachment.kind == Attachment.Kind.IMAGE) Modality.VISION else Modality.AUDIO
        if (needed !in modalities) {
            delete(listOf(attachment))
            val reason = if (needed in config.bundle.manifest.modalities) {
                "the engine that runs this bundle takes no ${needed.id}: load it with LiteRT"
            } else {
                "this bundle takes no ${needed.id}: compile it with --modalities text,${needed.id}"
            }
            return show(EngineException(reason))
        }
        attachments += attachment
        view?.showAttachments(attachments.toList())
        save()
    }

    fun removeAttachments() {
        delete(attachments.toList())
        attachments.clear()
        view?.showAttachments(emptyList())
        save()
    }

    /** Sends the draft, which stays if no engine should get it; without effect while an answer is coming or for nothing to send. */
    fun send() {
        val text = draft.trim()
        if (isRunning || text.isEmpty() && attachments.isEmpty()) return
        try {
            requireNoNul(text)
        } catch (refusal: EngineException) {
            return show(refusal)
        }
        dropUnanswered()
        turns += Turn(Role.USER, text, attachments.toList())
        draft = ""
        attachments.clear()
        view?.showDraft("")
        view?.showAttachments(emptyList())
        answer()
    }

    /** Asks again for the last answer. */
    fun retry() {
        if (isRunning) return
        if (turns.lastOrNull()?.role == Role.MODEL) turns.removeAt(turns.size - 1)
        if (turns.lastOrNull()?.role == Role.USER) answer()
    }

    /** Ends the answer that is coming; what was said so far stays. */
    fun stop() {
        running?.request()
    }

    /** Forgets the conversation. */
    fun reset() {
        generation++
        stop()
        running = null
        end = null
        delete(turns.flatMap { it.attachments })
        turns.clear()
        threads.background(Lane.ENGINE) { engine.reset() }
        save()
        view?.showTurns(emptyList(), isRunning = false)
        view?.showEnd(null)
        showState()
    }

    /** Answers [ChatView.showError]. */
    fun errorSeen() {
        error = null
    }

    /** Something that the user tried did not work. */
    fun show(failure: Throwable) {
        error = failure
        view?.showError(failure)
    }

    /** A turn that was never answered would leave two user turns in a row. */
    private fun dropUnanswered() {
        if (turns.lastOrNull()?.role == Role.USER) delete(turns.removeAt(turns.size - 1).attachments)
    }

    private fun delete(gone: List<Attachment>) {
        if (gone.isNotEmpty()) threads.background(Lane.STORAGE) { environment.files.delete(gone) }
    }

    private fun answer() {
        val asked = turns.toList()
        val mine = generation
        val stop = StopSignal()
        turns += Turn(Role.MODEL, "", isPartial = true)
        running = stop
        end = null
        save()
        view?.showTurns(turns.toList(), isRunning)
        view?.showEnd(null)
        showState()
        val drawing = sampling
        threads.background(Lane.ENGINE) { run(asked, drawing, stop, mine) }
    }

    private fun run(asked: List<Turn>, drawing: Sampling, stop: StopSignal, mine: Int) {
        val meter = Meter(environment.clock)
        val text = StringBuilder()
        try {
            val answer = engine.run(asked, drawing, maxNewTokens, stop) { piece ->
                meter.count()
                // The answer is part of the next prompt, which may hold none.
                text.append(piece.replace(NUL, REPLACEMENT))
                val whole = text.toString()
                threads.main { grow(whole, meter.pieces, mine) }
            }
            val stats = meter.stats()?.copy(memoryBytes = environment.memory())
            threads.main { finish(text.toString(), answer, stats, mine) }
        } catch (failure: Exception) {
            // Also what no engine should throw: a phone's driver or a conversation kept by another version.
            threads.main { fail(failure, mine) }
        }
    }

    private fun grow(text: String, pieces: Int, mine: Int) {
        if (mine != generation) return
        turns[turns.size - 1] = turns.last().copy(text = text)
        view?.showAnswer(text)
        if (pieces % saveEvery == 0) save()
    }

    private fun finish(text: String, answer: Answer, stats: Stats?, mine: Int) {
        if (mine != generation) return
        running = null
        turns[turns.size - 1] = Turn(Role.MODEL, text, isPartial = answer.finish == Finish.STOPPED)
        end = AnswerEnd(answer.finish, stats)
        save()
        view?.showTurns(turns.toList(), isRunning)
        view?.showEnd(end)
        view?.announce(text)
        showState()
    }

    private fun fail(failure: Throwable, mine: Int) {
        if (mine != generation) return
        running = null
        if (turns.last().text.isEmpty()) turns.removeAt(turns.size - 1)
        save()
        view?.showTurns(turns.toList(), isRunning)
        show(failure)
        showState()
    }

    private fun showState() {
        val last = turns.lastOrNull()
        view?.showState(isRunning, canRetry = !isRunning && (last?.role == Role.USER || last?.isPartial == true))
    }

    private fun save() {
        val path = config.bundle.directory.path
        val session = Session(path, config.runtime, config.device, config.size, turns.toList(), draft, attachments.toList())
        threads.background(Lane.STORAGE) {
            try {
                environment.store.save(session)
            } catch (failure: Exception) {
                threads.main { show(failure) }
            }
        }
    }
}

private const val REPLACEMENT = '\uFFFD'
