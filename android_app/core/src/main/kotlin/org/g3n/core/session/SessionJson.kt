package org.g3n.core.session

import com.google.gson.stream.JsonWriter
import org.g3n.core.bundle.Device
import org.g3n.core.bundle.InvalidManifest
import org.g3n.core.bundle.Json
import org.g3n.core.bundle.Runtime
import org.g3n.core.chat.Attachment
import org.g3n.core.chat.Role
import org.g3n.core.chat.Turn
import java.io.StringWriter

/** [Session] as JSON and back. */
object SessionJson {
    private const val VERSION = 1L

    fun write(session: Session): String {
        val out = StringWriter()
        JsonWriter(out).apply {
            beginObject()
            name("version").value(VERSION)
            name("bundle").value(session.bundlePath)
            name("runtime").value(session.runtime.id)
            name("device").value(session.device.id)
            session.size?.let { name("size").value(it) }
            name("draft").value(session.draft)
            write("attached", session.attachments)
            name("turns").beginArray()
            session.turns.forEach { write(it) }
            endArray()
            endObject()
        }
        return out.toString()
    }

    private fun JsonWriter.write(turn: Turn) {
        beginObject()
        name("role").value(turn.role.name)
        name("text").value(turn.text)
        name("partial").value(turn.isPartial)
        write("attachments", turn.attachments)
        endObject()
    }

    private fun JsonWriter.write(name: String, attachments: List<Attachment>) {
        name(name).beginArray()
        for (attachment in attachments) {
            beginObject()
            name("kind").value(attachment.kind.name)
            name("path").value(attachment.path)
            endObject()
        }
        endArray()
    }

    /** Raises [InvalidManifest] for anything that [write] has not written. */
    fun read(text: String): Session {
        val root = Json.parse(text) as? Map<*, *> ?: throw InvalidManifest("the session is no object")
        if (root["version"] != VERSION) throw InvalidManifest("the session has version ${root["version"]}, not $VERSION")
        return try {
            Session(
                root["bundle"] as String,
                Runtime.of(root["runtime"] as String),
                Device.entries.first { it.id == root["device"] },
                root["size"] as String?,
                (root["turns"] as List<*>).map { turn(it as Map<*, *>) },
                root["draft"] as String,
                // Earlier versions of the app did not keep them.
                attachments(root["attached"] ?: emptyList<Any?>()),
            )
        } catch (error: ClassCastException) {
            throw InvalidManifest("the session is malformed", error)
        } catch (error: NullPointerException) {
            throw InvalidManifest("the session is malformed", error)
        } catch (error: NoSuchElementException) {
            throw InvalidManifest("the session is malformed", error)
        } catch (error: IllegalArgumentException) {
            throw InvalidManifest("the session is malformed", error)
        }
    }

    private fun turn(entry: Map<*, *>): Turn = Turn(
        Role.valueOf(entry["role"] as String),
        entry["text"] as String,
        attachments(entry["attachments"]),
        entry["partial"] as Boolean,
    )

    private fun attachments(entries: Any?): List<Attachment> = (entries as List<*>).map { attachment(it as Map<*, *>) }

    private fun attachment(entry: Map<*, *>): Attachment =
        Attachment(Attachment.Kind.valueOf(entry["kind"] as String), entry["path"] as String)
}
