package org.g3n.core.session

import org.g3n.core.bundle.Device
import org.g3n.core.bundle.Runtime
import org.g3n.core.chat.Attachment
import org.g3n.core.chat.Turn

/**
 * A conversation as it survives the end of the process.
 *
 * @property bundlePath folder of the bundle.
 * @property turns what was said; the last may be a model's that was interrupted.
 * @property draft what the user had typed and not sent.
 * @property attachments what goes with the draft.
 */
data class Session(
    val bundlePath: String,
    val runtime: Runtime,
    val device: Device,
    val size: String?,
    val turns: List<Turn>,
    val draft: String = "",
    val attachments: List<Attachment> = emptyList(),
) {
    /** Every file that the session names. */
    val files: Set<String> get() = (turns.flatMap { it.attachments } + attachments).mapTo(HashSet()) { it.path }
}
