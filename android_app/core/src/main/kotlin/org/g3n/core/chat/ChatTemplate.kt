package org.g3n.core.chat

/**
 * A checkpoint's chat template as the texts that stand between what people and the model say.
 *
 * They are derived from the Jinja template when a bundle is compiled, and proven to write the same prompts.
 *
 * @property first before the first user's text, if there is no system's text.
 * @property system before and after the system's text; `null` if the template takes none.
 * @property answer between a user's text and an answer that was given.
 * @property next between an answer and the next user's text.
 * @property generation between the last user's text and the answer to come.
 */
data class TurnTexts(
    val first: String,
    val system: Pair<String, String>?,
    val answer: String,
    val next: String,
    val generation: String,
    val stripUser: Boolean,
    val stripAnswer: Boolean,
    val stripSystem: Boolean,
)

/**
 * Renders a conversation the way the checkpoint's Jinja template does.
 *
 * LiteRT-LM renders turns itself; this is for engines that take a plain prompt. No bos is added: the engine's first
 * token is not text.
 */
class ChatTemplate(private val texts: TurnTexts) {
    /**
     * The prompt that [turns] make, ending where the model is to speak.
     *
     * Raises [IllegalArgumentException] unless user and model alternate and a user speaks last, and if there is a
     * system's text that the template does not take.
     */
    fun render(turns: List<Turn>): String {
        val system = turns.firstOrNull()?.takeIf { it.role == Role.SYSTEM }
        val spoken = if (system == null) turns else turns.drop(1)
        require(spoken.isNotEmpty() && spoken.last().role == Role.USER) { "there is no user turn to answer" }
        val out = StringBuilder()
        if (system == null) {
            out.append(texts.first)
        } else {
            val (before, after) = requireNotNull(texts.system) { "this model's chat template takes no system text" }
            out.append(before).append(said(system.text, texts.stripSystem)).append(after)
        }
        for ((i, turn) in spoken.withIndex()) {
            val isUser = turn.role == Role.USER
            require(isUser == (i % 2 == 0)) { "user and model must alternate" }
            if (isUser) {
                out.append(said(turn.text, texts.stripUser))
            } else {
                out.append(texts.answer).append(said(turn.text, texts.stripAnswer)).append(texts.next)
            }
        }
        return out.append(texts.generation).toString()
    }

    private companion object {
        // Python's str.strip() and Kotlin's trim() differ on a few control characters.
        fun said(text: String, isStripped: Boolean): String =
            if (isStripped) text.trim { it.isWhitespace() || it == '\u001c' || it == '\u0085' } else text
    }
}
