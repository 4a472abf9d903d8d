package org.g3n.app

import android.content.ContentProvider
import android.content.ContentValues
import android.database.Cursor
import android.net.Uri
import android.os.ParcelFileDescriptor
import java.io.File
import java.io.FileNotFoundException

/** Lets the camera app write one photo, for which it is given the right with the request; nothing else can be reached. */
class PhotoProvider : ContentProvider() {
    override fun onCreate(): Boolean = true

    override fun openFile(uri: Uri, mode: String): ParcelFileDescriptor {
        val name = uri.lastPathSegment.orEmpty()
        if (!NAME.matches(name)) throw FileNotFoundException("$uri is no photo of this app")
        val folder = (checkNotNull(context).applicationContext as G3nApplication).attachments
        return ParcelFileDescriptor.open(File(folder, name), ParcelFileDescriptor.parseMode(mode))
    }

    override fun getType(uri: Uri): String = "image/jpeg"

    override fun query(
        uri: Uri,
        projection: Array<out String>?,
        selection: String?,
        selectionArgs: Array<out String>?,
        sortOrder: String?,
    ): Cursor? = null

    override fun insert(uri: Uri, values: ContentValues?): Uri? = null

    override fun delete(uri: Uri, selection: String?, selectionArgs: Array<out String>?): Int = 0

    override fun update(uri: Uri, values: ContentValues?, selection: String?, selectionArgs: Array<out String>?): Int = 0

    companion object {
        const val PREFIX = "photo"
        const val SUFFIX = ".jpg"
        private val NAME = Regex("photo[0-9-]+\\.jpg")

        /** Where the camera app finds [photo]. */
        fun uri(photo: File): Uri = Uri.parse("content://org.g3n.app.photos/${photo.name}")
    }
}
