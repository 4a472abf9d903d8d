package org.g3n.app

import android.graphics.Bitmap
import android.graphics.BitmapFactory
import android.graphics.Canvas
import android.graphics.Color
import android.graphics.Paint
import java.io.ByteArrayOutputStream
import java.io.File

/** Photos as cameras write them. */
internal object Pictures {
    /** A blue JPEG whose left third is red, with its EXIF [orientation]. */
    fun jpeg(width: Int, height: Int, orientation: Int): ByteArray {
        val bitmap = Bitmap.createBitmap(width, height, Bitmap.Config.ARGB_8888)
        bitmap.eraseColor(Color.BLUE)
        Canvas(bitmap).drawRect(0f, 0f, width / 3f, height.toFloat(), Paint().apply { color = Color.RED })
        val plain = ByteArrayOutputStream().also { bitmap.compress(Bitmap.CompressFormat.JPEG, 90, it) }.toByteArray()
        val tiff = byteArrayOf(0x4D, 0x4D, 0, 0x2A, 0, 0, 0, 8, 0, 1, 1, 0x12, 0, 3, 0, 0, 0, 1, 0, orientation.toByte(), 0, 0, 0, 0, 0, 0)
        val exif = "Exif".encodeToByteArray() + byteArrayOf(0, 0) + tiff
        val length = exif.size + 2
        val segment = byteArrayOf(0xFF.toByte(), 0xE1.toByte(), (length shr 8).toByte(), length.toByte()) + exif
        return plain.copyOfRange(0, 2) + segment + plain.copyOfRange(2, plain.size)
    }

    fun read(file: File): Bitmap = checkNotNull(BitmapFactory.decodeFile(file.path))

    fun isRed(pixel: Int): Boolean = Color.red(pixel) > 200 && Color.blue(pixel) < 60
}
