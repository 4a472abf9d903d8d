package org.g3n.app

import android.graphics.Bitmap
import android.graphics.BitmapFactory
import android.graphics.Canvas
import android.graphics.Color
import android.view.View
import android.view.WindowManager
import org.junit.Assert.fail
import java.io.File
import java.io.FileOutputStream
import kotlin.math.abs

/** Draws what a person would see and compares it with the picture that was looked at and kept. */
internal class Photographer(private val setting: String) {
    private val taken = File(checkNotNull(System.getProperty("g3n.pictures")) { "run with -Dg3n.pictures=FOLDER" }, setting)
    private val differing = ArrayList<String>()

    /** Writes the picture [name] and compares it. */
    fun shoot(name: String) {
        Screens.idle()
        val picture = draw()
        val file = File(taken, "$name.png").apply { parentFile?.mkdirs() }
        FileOutputStream(file).use { picture.compress(Bitmap.CompressFormat.PNG, 100, it) }
        val kept = javaClass.getResourceAsStream("/pictures/$setting/$name.png")?.use { BitmapFactory.decodeStream(it) }
        val difference = if (kept == null) "has no picture to compare with" else difference(kept, picture)
        if (difference != null) differing += "$setting/$name $difference"
    }

    /** Fails if a picture differed: look at them, and copy the right ones to `src/test/resources/pictures`. */
    fun report() {
        if (differing.isNotEmpty()) fail("${differing.joinToString("; ")}; what was drawn is in $taken")
    }

    private fun difference(kept: Bitmap, drawn: Bitmap): String? {
        if (kept.width != drawn.width || kept.height != drawn.height) {
            return "is ${drawn.width}x${drawn.height}, not ${kept.width}x${kept.height}"
        }
        var count = 0
        for (y in 0 until kept.height) for (x in 0 until kept.width) if (isOther(kept.getPixel(x, y), drawn.getPixel(x, y))) count++
        val allowed = kept.width * kept.height / ONE_IN
        return if (count > allowed) "differs in $count pixels, $allowed are allowed" else null
    }

    private fun isOther(a: Int, b: Int): Boolean =
        maxOf(abs(Color.red(a) - Color.red(b)), abs(Color.green(a) - Color.green(b)), abs(Color.blue(a) - Color.blue(b))) > SHADES

    /** All windows of the screen in front, at their places. */
    private fun draw(): Bitmap {
        val global = Class.forName("android.view.WindowManagerGlobal").getMethod("getInstance").invoke(null)!!
        fun list(field: String) = global.javaClass.getDeclaredField(field).apply { isAccessible = true }.get(global) as List<*>
        val windows = list("mViews").map { it as View }.zip(list("mParams").map { it as WindowManager.LayoutParams })
        // Windows of stopped screens stay in the list, and a dialog may stand before the window that it lies upon.
        val base = windows.last { it.second.type == WindowManager.LayoutParams.TYPE_BASE_APPLICATION }
        val tokens = hashSetOf(base.second.token, base.first.windowToken)
        val above = windows.filter { (view, place) -> view !== base.first && place.token in tokens && tokens.add(view.windowToken) }
        val bitmap = Bitmap.createBitmap(base.first.width, base.first.height, Bitmap.Config.ARGB_8888)
        val canvas = Canvas(bitmap)
        for ((view, place) in listOf(base) + above) {
            if (!view.isShown || view.width == 0) continue
            if (place.flags and WindowManager.LayoutParams.FLAG_DIM_BEHIND != 0) {
                canvas.drawColor(Color.argb((place.dimAmount * 255).toInt(), 0, 0, 0))
            }
            val at = IntArray(2).also(view::getLocationOnScreen)
            // Robolectric leaves a dialog in the corner; the system would centre it.
            if (place.type == WindowManager.LayoutParams.TYPE_APPLICATION) {
                at[0] = (bitmap.width - view.width) / 2
                at[1] = (bitmap.height - view.height) / 2
            }
            canvas.save()
            canvas.translate(at[0].toFloat(), at[1].toFloat())
            view.draw(canvas)
            canvas.restore()
        }
        return bitmap
    }

    private companion object {
        /** One pixel in so many may differ, and a shade more or less is no difference: a word is more than that. */
        const val ONE_IN = 5000
        const val SHADES = 24
    }
}
