package org.g3n.app

import android.content.ContentResolver
import android.net.Uri
import android.provider.DocumentsContract
import org.g3n.core.bundle.BundleSource
import java.io.IOException
import java.io.InputStream

/** A folder chosen in the system's picker. Whatever its provider throws is an [IOException]. */
class FolderSource(private val resolver: ContentResolver, private val tree: Uri) : BundleSource {
    override fun open(path: String): InputStream? = asked {
        var document = DocumentsContract.getTreeDocumentId(tree)
        for (name in path.split('/').filter { it.isNotEmpty() && it != "." }) {
            document = child(document, name) ?: return null
        }
        resolver.openInputStream(DocumentsContract.buildDocumentUriUsingTree(tree, document))
    }

    private fun child(parent: String, name: String): String? {
        val children = DocumentsContract.buildChildDocumentsUriUsingTree(tree, parent)
        val columns = arrayOf(DocumentsContract.Document.COLUMN_DOCUMENT_ID, DocumentsContract.Document.COLUMN_DISPLAY_NAME)
        resolver.query(children, columns, null, null, null)?.use { cursor ->
            while (cursor.moveToNext()) if (cursor.getString(1) == name) return cursor.getString(0)
        }
        return null
    }
}

/** Runs [call] into another app's provider, which may throw what it likes. */
internal inline fun <T> asked(call: () -> T): T = try {
    call()
} catch (error: RuntimeException) {
    throw IOException("the app that holds the files failed: ${error.message ?: error.javaClass.simpleName}", error)
}
