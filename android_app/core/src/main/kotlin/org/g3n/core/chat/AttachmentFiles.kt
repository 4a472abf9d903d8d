package org.g3n.core.chat

import java.io.File

/** The files of pictures and sounds: they live as long as a conversation or a draft names them. */
interface AttachmentFiles {
    fun delete(attachments: Collection<Attachment>)

    /** Deletes what no longer belongs to anything: all but [paths]. */
    fun keepOnly(paths: Set<String>)
}

/** Keeps them in [folder], and deletes nothing elsewhere. */
class FolderAttachments(private val folder: File) : AttachmentFiles {
    override fun delete(attachments: Collection<Attachment>) {
        attachments.map { File(it.path) }.filter { it.parentFile == folder }.forEach { it.delete() }
    }

    override fun keepOnly(paths: Set<String>) {
        folder.listFiles().orEmpty().filter { it.path !in paths }.forEach { it.delete() }
    }
}
