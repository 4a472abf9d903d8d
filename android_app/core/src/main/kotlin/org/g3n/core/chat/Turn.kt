package org.g3n.core.chat

/** Where engines in C take a text to end, without an error. */
const val NUL = '\u0000'

/** Who speaks. */
enum class Role {
    SYSTEM,
    USER,
    MODEL,
}

/** What a turn carries besides text: a file in the app's own storage. */
data class Attachment(val kind: Kind, val path: String) {
    enum class Kind {
        IMAGE,
        SOUND,
    }
}

/**
 * One turn of a conversation.
 *
 * @property isPartial the model was interrupted while it said [text].
 */
data class Turn(
    val role: Role,
    val text: String,
    val attachments: List<Attachment> = emptyList(),
    val isPartial: Boolean = false,
)
