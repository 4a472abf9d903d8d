package org.g3n.core.ui

import org.g3n.core.chat.Attachment
import org.g3n.core.chat.Turn
import org.g3n.core.engine.Finish
import org.g3n.core.engine.Notice

/** What the chat screen can show. */
interface ChatView {
    /** All turns anew; the last is still coming while [isRunning]. */
    fun showTurns(turns: List<Turn>, isRunning: Boolean)

    /** The text of the last turn has grown to [text]. */
    fun showAnswer(text: String)

    fun showDraft(text: String)

    fun showAttachments(attachments: List<Attachment>)

    /** [isRunning] while an answer is coming; [canRetry] when the last answer is missing or was interrupted. */
    fun showState(isRunning: Boolean, canRetry: Boolean)

    /** What a person should know of how the bundle was loaded; before [showEnd]. */
    fun showNotice(notice: Notice?)

    /** How the last answer ended; `null`: there is none. */
    fun showEnd(end: AnswerEnd?)

    /** The answer that has just ended, for those who listen. */
    fun announce(answer: String)

    /** Shown until [ChatPresenter.errorSeen]. */
    fun showError(error: Throwable)
}

/**
 * Speed of one answer.
 *
 * @property firstTokenSeconds from sending to the first piece of text.
 * @property tokensPerSecond of the pieces after the first; `null` when there was only one.
 * @property memoryBytes what the app occupies; `null` where nothing measures it.
 */
data class Stats(val pieces: Int, val firstTokenSeconds: Double, val tokensPerSecond: Double?, val memoryBytes: Long? = null)

/** How an answer ended, and how fast it was unless it was empty. */
data class AnswerEnd(val finish: Finish, val stats: Stats?)
