package org.g3n.app

import android.content.Context
import android.content.Intent
import android.graphics.Bitmap
import android.graphics.BitmapFactory
import android.net.Uri
import android.provider.MediaStore
import org.g3n.core.chat.WaveFile
import java.io.File
import java.io.FileOutputStream
import java.io.IOException

/** Pictures and sounds as files of the app: engines take paths, and a picked document's right to be read ends. */
class AttachmentStore(private val context: Context) {
    private val folder = File(context.filesDir, "attachments").apply { mkdirs() }

    fun galleryIntent(): Intent = Intent(Intent.ACTION_OPEN_DOCUMENT).addCategory(Intent.CATEGORY_OPENABLE).setType("image/*")

    /** The camera app takes the picture, so this app needs no permission; it hands back a picture of screen size. */
    fun cameraIntent(): Intent = Intent(MediaStore.ACTION_IMAGE_CAPTURE)

    fun newSound(): File = File.createTempFile("sound", ".wav", folder)

    fun seconds(sound: File): Int = (sound.length() / (WaveFile.GEMMA_RATE * Short.SIZE_BYTES)).toInt()

    /** The chosen picture, no larger than the encoder sees; `null` if it cannot be read. */
    fun fromGallery(data: Intent?): File? = data?.data?.let { uri -> decode(uri)?.let(::save) }

    fun fromCamera(data: Intent?): File? {
        @Suppress("DEPRECATION")
        val picture = data?.extras?.get("data") as? Bitmap ?: return null
        return save(picture)
    }

    private fun decode(uri: Uri): Bitmap? = try {
        val size = BitmapFactory.Options().apply { inJustDecodeBounds = true }
        context.contentResolver.openInputStream(uri)?.use { BitmapFactory.decodeStream(it, null, size) }
        val sampled = BitmapFactory.Options().apply { inSampleSize = maxOf(1, maxOf(size.outWidth, size.outHeight) / LONGEST_SIDE) }
        context.contentResolver.openInputStream(uri)?.use { BitmapFactory.decodeStream(it, null, sampled) }
    } catch (_: IOException) {
        null
    }

    private fun save(picture: Bitmap): File {
        val file = File.createTempFile("picture", ".jpg", folder)
        FileOutputStream(file).use { picture.compress(Bitmap.CompressFormat.JPEG, QUALITY, it) }
        return file
    }

    private companion object {
        const val LONGEST_SIDE = 768
        const val QUALITY = 92
    }
}
