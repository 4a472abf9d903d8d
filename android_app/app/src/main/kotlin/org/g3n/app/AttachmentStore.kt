package org.g3n.app

import android.content.ClipData
import android.content.ContentResolver
import android.content.Intent
import android.graphics.Bitmap
import android.graphics.BitmapFactory
import android.graphics.Matrix
import android.media.ExifInterface
import android.net.Uri
import android.provider.MediaStore
import org.g3n.core.chat.WaveFile
import java.io.File
import java.io.FileOutputStream
import java.io.IOException
import java.io.InputStream

/**
 * Pictures and sounds as files in [folder]: engines take paths, and a picked document's right to be read ends.
 *
 * Reading a picture takes a tenth of a second and more: not for the main thread.
 */
class AttachmentStore(private val folder: File, private val resolver: ContentResolver) {
    fun galleryIntent(): Intent = Intent(Intent.ACTION_OPEN_DOCUMENT).addCategory(Intent.CATEGORY_OPENABLE).setType("image/*")

    /** The camera app takes the picture, so this app needs no permission, and writes it whole into [photo]. */
    fun cameraIntent(photo: File): Intent {
        val uri = PhotoProvider.uri(photo)
        return Intent(MediaStore.ACTION_IMAGE_CAPTURE)
            .putExtra(MediaStore.EXTRA_OUTPUT, uri)
            .addFlags(Intent.FLAG_GRANT_WRITE_URI_PERMISSION or Intent.FLAG_GRANT_READ_URI_PERMISSION)
            .apply { clipData = ClipData.newRawUri("", uri) }
    }

    /** An empty file for the camera app. */
    fun newPhoto(): File = File.createTempFile(PhotoProvider.PREFIX, PhotoProvider.SUFFIX, folder)

    fun newSound(): File = File.createTempFile("sound", ".wav", folder)

    fun seconds(sound: File): Float = maxOf(0L, sound.length() - WaveFile.HEADER_BYTES).toFloat() / WaveFile.BYTES_PER_SECOND

    /** The chosen picture, upright and no larger than the encoder sees. Raises [IOException] for one that cannot be read. */
    fun fromGallery(uri: Uri): File {
        val copy = File.createTempFile("original", ".part", folder)
        try {
            asked { resolver.openInputStream(uri) }?.use { input -> asked { FileOutputStream(copy).use { copy(input, it) } } }
                ?: throw IOException("$uri gives nothing")
            return upright(copy)
        } finally {
            copy.delete()
        }
    }

    /** The same of a photo that the camera app has written, which is deleted. */
    fun fromCamera(photo: File): File = try {
        upright(photo)
    } finally {
        photo.delete()
    }

    private fun copy(input: InputStream, output: FileOutputStream) {
        val buffer = ByteArray(DEFAULT_BUFFER_SIZE)
        var total = 0L
        while (true) {
            val count = input.read(buffer)
            if (count < 0) return
            total += count
            if (total > MAX_BYTES) throw IOException("the picture has more than ${MAX_BYTES shr 20} MB")
            output.write(buffer, 0, count)
        }
    }

    private fun upright(original: File): File {
        val size = BitmapFactory.Options().apply { inJustDecodeBounds = true }
        BitmapFactory.decodeFile(original.path, size)
        val longest = maxOf(size.outWidth, size.outHeight)
        if (longest <= 0) throw IOException("the file is no picture that this phone can read")
        // Sampling halves: what is left above the encoder's side is scaled.
        val sampled = BitmapFactory.Options().apply { inSampleSize = Integer.highestOneBit(maxOf(1, longest / LONGEST_SIDE)) }
        val picture = BitmapFactory.decodeFile(original.path, sampled) ?: throw IOException("the picture cannot be read")
        val scale = minOf(1f, LONGEST_SIDE.toFloat() / maxOf(picture.width, picture.height))
        val turned = Bitmap.createBitmap(picture, 0, 0, picture.width, picture.height, turn(original, scale), true)
        val file = File.createTempFile("picture", ".jpg", folder)
        FileOutputStream(file).use { turned.compress(Bitmap.CompressFormat.JPEG, QUALITY, it) }
        return file
    }

    /** How the picture is to be scaled, mirrored and turned: cameras write it as the sensor lies, and say so in its EXIF. */
    private fun turn(original: File, scale: Float): Matrix {
        val orientation = try {
            ExifInterface(original.path).getAttributeInt(ExifInterface.TAG_ORIENTATION, ExifInterface.ORIENTATION_NORMAL)
        } catch (_: IOException) {
            ExifInterface.ORIENTATION_NORMAL
        }
        val degrees = when (orientation) {
            ExifInterface.ORIENTATION_ROTATE_180, ExifInterface.ORIENTATION_FLIP_VERTICAL -> 180f
            ExifInterface.ORIENTATION_ROTATE_90, ExifInterface.ORIENTATION_TRANSVERSE -> 90f
            ExifInterface.ORIENTATION_ROTATE_270, ExifInterface.ORIENTATION_TRANSPOSE -> 270f
            else -> 0f
        }
        return Matrix().apply {
            val mirror = if (orientation in MIRRORED) -scale else scale
            setScale(mirror, scale)
            postRotate(degrees)
        }
    }

    private companion object {
        const val LONGEST_SIDE = 768
        const val QUALITY = 92
        const val MAX_BYTES = 256L shl 20
        val MIRRORED = setOf(
            ExifInterface.ORIENTATION_FLIP_HORIZONTAL,
            ExifInterface.ORIENTATION_FLIP_VERTICAL,
            ExifInterface.ORIENTATION_TRANSPOSE,
            ExifInterface.ORIENTATION_TRANSVERSE,
        )
    }
}
