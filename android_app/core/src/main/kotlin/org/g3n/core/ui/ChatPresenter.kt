package org.g3n.core.ui

import org.g3n.core.bundle.Modality
import org.g3n.core.bundle.Sampling
import org.g3n.core.chat.Attachment
import org.g3n.core.chat.Role
import org.g3n.core.chat.Turn
import org.g3n.core.engine.Answer
import org.g3n.core.engine.ContextFull
import org.g3n.core.engine.Engine
import org.g3n.core.engine.EngineConfig
import org.g3n.core.engine.EngineException
import org.g3n.core.engine.Finish
import org.g3n.core.session.Session
import org.g3n.core.session.SessionStore
import java.io.IOException

/** What the chat screen can show. */
interface ChatView {
    /** All turns anew. */
    fun showTurns(turns: List<Turn>)

    /** The text of the last turn has grown to [text]. */
    fun showAnswer(text: String)

    fun showDraft(text: String)

    fun showAttachments(attachments: List<Attachment>)

    /** [isRunning] while an answer is coming; [canRetry] when the last answer is missing or was interrupted. */
    fun showState(isRunning: Boolean, canRetry: Boolean)

    fun showStats(stats: Stats)

    fun showFinish(finish: Finish)

    fun showError(error: Throwable)
}

/**
 * Speed of one answer.
 *
 * @property firstTokenSeconds from sending to the first piece of text.
 * @property tokensPerSecond of the pieces after the first; `null` when there was only one.
 */
data class Stats(val pieces: Int, val firstTokenSeconds: Double, val tokensPerSecond: Double?)

/**
 * The conversation: sends, streams, stops, resets, and keeps everything across the end of the process.
 *
 * @param saveEvery pieces of an answer between two saves.
 */
class ChatPresenter(
    private val engine: Engine,
    private val config: EngineConfig,
    private val store: SessionStore,
    private val threads: Threads,
    private val clock: Clock,
    private val maxNewTokens: Int = 1024,
    private val saveEvery: Int = 16,
) {
    private var view: ChatView? = null
    private val turns = ArrayList<Turn>()
    private val attachments = ArrayList<Attachment>()
    private var draft = ""
    private var isRunning = false

    /** Grows when a conversation is reset, so that an answer to an older one is dropped. */
    private var generation = 0

    /** How tokens are drawn; the bundle's own defaults at first. */
    var sampling: Sampling = config.bundle.manifest.sampling

    val modalities: Set<Modality> get() = config.bundle.manifest.modalities

    init {
        store.load()?.takeIf { it.bundlePath == config.bundle.directory.path }?.let {
            turns += it.turns
            draft = it.draft
        }
    }

    fun attach(view: ChatView) {
        this.view = view
        view.showTurns(turns.toList())
        view.showDraft(draft)
        view.showAttachments(attachments.toList())
        showState()
    }

    /** The view goes away; what it shows is kept. */
    fun detach() {
        view = null
        save()
    }

    /** The user has typed. */
    fun edit(text: String) {
        draft = text
    }

    /** Adds a picture or sound to the turn being written. */
    fun add(attachment: Attachment) {
        val needed = if (attachment.kind == Attachment.Kind.IMAGE) Modality.VISION else Modality.AUDIO
        if (needed !in modalities) {
            view?.showError(EngineException("this bundle takes no ${needed.id}: compile it with --modalities text,${needed.id}"))
            return
        }
        attachments += attachment
        view?.showAttachments(attachments.toList())
    }

    fun removeAttachments() {
        attachments.clear()
        view?.showAttachments(emptyList())
    }

    /** Sends the draft; without effect while an answer is coming or when there is nothing to send. */
    fun send() {
        val text = draft.trim()
        if (isRunning || text.isEmpty() && attachments.isEmpty()) return
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
        if (isRunning) engine.stop()
    }

    /** Forgets the conversation. */
    fun reset() {
        generation++
        if (isRunning) engine.stop()
        isRunning = false
        turns.clear()
        threads.background { engine.reset() }
        store.clear()
        view?.showTurns(emptyList())
        showState()
    }

    /** A turn that was never answered would leave two user turns in a row. */
    private fun dropUnanswered() {
        if (turns.lastOrNull()?.role == Role.USER) turns.removeAt(turns.size - 1)
    }

    private fun answer() {
        val asked = turns.toList()
        val mine = generation
        turns += Turn(Role.MODEL, "", isPartial = true)
        isRunning = true
        save()
        view?.showTurns(turns.toList())
        showState()
        val drawing = sampling
        threads.background { run(asked, drawing, mine) }
    }

    private fun run(asked: List<Turn>, drawing: Sampling, mine: Int) {
        val meter = Meter(clock)
        val text = StringBuilder()
        try {
            val answer = engine.run(asked, drawing, maxNewTokens) { piece ->
                meter.count()
                text.append(piece)
                val whole = text.toString()
                threads.main { grow(whole, meter.pieces, mine) }
            }
            threads.main { finish(text.toString(), answer, meter.stats(), mine) }
        } catch (error: EngineException) {
            threads.main { fail(error, mine) }
        } catch (error: ContextFull) {
            threads.main { fail(error, mine) }
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
        isRunning = false
        turns[turns.size - 1] = Turn(Role.MODEL, text, isPartial = answer.finish == Finish.STOPPED)
        save()
        view?.showTurns(turns.toList())
        stats?.let { view?.showStats(it) }
        view?.showFinish(answer.finish)
        showState()
    }

    private fun fail(error: Throwable, mine: Int) {
        if (mine != generation) return
        isRunning = false
        if (turns.last().text.isEmpty()) turns.removeAt(turns.size - 1)
        save()
        view?.showTurns(turns.toList())
        view?.showError(error)
        showState()
    }

    private fun showState() {
        val last = turns.lastOrNull()
        view?.showState(isRunning, canRetry = !isRunning && (last?.role == Role.USER || last?.isPartial == true))
    }

    private fun save() {
        try {
            store.save(Session(config.bundle.directory.path, config.runtime, config.device, config.size, turns.toList(), draft))
        } catch (error: IOException) {
            view?.showError(error)
        }
    }
}

/** Counts pieces of an answer and times them. */
private class Meter(private val clock: Clock) {
    private val start = clock.nanos()
    private var first = 0L
    private var last = 0L

    var pieces = 0
        private set

    fun count() {
        last = clock.nanos()
        if (pieces++ == 0) first = last
    }

    fun stats(): Stats? {
        if (pieces == 0) return null
        val rate = if (pieces > 1 && last > first) (pieces - 1) / ((last - first) / NANOS) else null
        return Stats(pieces, (first - start) / NANOS, rate)
    }

    private companion object {
        const val NANOS = 1e9
    }
}
