package org.g3n.app

import android.content.ContentProvider
import android.content.ContentValues
import android.database.Cursor
import android.database.MatrixCursor
import android.net.Uri
import android.os.ParcelFileDescriptor
import android.provider.DocumentsContract
import java.io.File

/** Another app's documents: those in [folder]; without one it fails as such apps do. */
class FolderProvider : ContentProvider() {
    var folder: File? = null

    override fun onCreate(): Boolean = true

    override fun query(
        uri: Uri,
        projection: Array<out String>?,
        selection: String?,
        selectionArgs: Array<out String>?,
        sortOrder: String?,
    ): Cursor {
        val files = checkNotNull(folder) { "the card was pulled out" }.listFiles().orEmpty()
        val columns = arrayOf(DocumentsContract.Document.COLUMN_DOCUMENT_ID, DocumentsContract.Document.COLUMN_DISPLAY_NAME)
        return MatrixCursor(columns).apply { files.forEach { addRow(arrayOf(it.name, it.name)) } }
    }

    override fun openFile(uri: Uri, mode: String): ParcelFileDescriptor {
        val file = File(folder, DocumentsContract.getDocumentId(uri))
        return ParcelFileDescriptor.open(file, ParcelFileDescriptor.parseMode(mode))
    }

    override fun getType(uri: Uri): String? = null

    override fun insert(uri: Uri, values: ContentValues?): Uri? = null

    override fun delete(uri: Uri, selection: String?, selectionArgs: Array<out String>?): Int = 0

    override fun update(uri: Uri, values: ContentValues?, selection: String?, selectionArgs: Array<out String>?): Int = 0

    companion object {
        const val AUTHORITY = "org.g3n.test.folder"
    }
}
