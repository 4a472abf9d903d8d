package org.g3n.core.chat

import org.g3n.core.bundle.InvalidManifest

/**
 * Renders a conversation the way Gemma's Jinja template does, from the manifest's one-turn prompt.
 *
 * LiteRT-LM renders turns itself; this is for engines that take a plain prompt. The system's text is a prefix of the
 * first user turn, and texts are trimmed. No bos is added: the engine's first token is not text.
 *
 * @param prompt the manifest's `template.prompt`, with `{prompt}` where the user's text goes.
 */
class ChatTemplate(prompt: String) {
    private val userOpening: String
    private val turnEnd: String
    private val modelOpening: String

    init {
        val parts = prompt.split(PLACEHOLDER)
        if (parts.size != 2) {
            throw InvalidManifest("the prompt template has ${parts.size - 1} times $PLACEHOLDER, it must have it once")
        }
        userOpening = parts[0]
        val split = parts[1].indexOf(TURN_START)
        turnEnd = if (split < 0) parts[1] else parts[1].substring(0, split)
        modelOpening = if (split < 0) "" else parts[1].substring(split)
    }

    /**
     * The prompt that [turns] make, ending where the model is to speak.
     *
     * Raises [IllegalArgumentException] unless user and model alternate and a user speaks last.
     */
    fun render(turns: List<Turn>): String {
        val system = turns.firstOrNull()?.takeIf { it.role == Role.SYSTEM }
        val spoken = if (system == null) turns else turns.drop(1)
        require(spoken.isNotEmpty() && spoken.last().role == Role.USER) { "there is no user turn to answer" }
        val out = StringBuilder()
        for ((i, turn) in spoken.withIndex()) {
            require((turn.role == Role.USER) == (i % 2 == 0)) { "user and model must alternate" }
            out.append(if (turn.role == Role.USER) userOpening else modelOpening)
            if (i == 0 && system != null) out.append(system.text).append("\n\n")
            out.append(trimmed(turn.text)).append(turnEnd)
        }
        return out.append(modelOpening).toString()
    }

    private companion object {
        const val PLACEHOLDER = "{prompt}"
        const val TURN_START = "<start_of_turn>"

        // Python's str.strip() and Kotlin's trim() differ on a few control characters.
        fun trimmed(text: String): String = text.trim { it.isWhitespace() || it == '\u001c' || it == '\u0085' }
    }
}
