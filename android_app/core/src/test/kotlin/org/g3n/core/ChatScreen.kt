package org.g3n.core

import org.g3n.core.chat.Attachment
import org.g3n.core.chat.Turn
import org.g3n.core.engine.Notice
import org.g3n.core.ui.AnswerEnd
import org.g3n.core.ui.ChatView

/** Notes what the chat was told to show. */
class ChatScreen : ChatView {
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
