package org.g3n.app

import android.app.Activity
import android.app.ActivityManager
import android.app.Application
import android.content.Context
import android.os.Handler
import android.os.Looper
import android.view.View
import org.g3n.core.device.DeviceMemory
import org.g3n.core.session.FileAcceptedKeys
import org.g3n.core.session.FileSessionStore
import org.g3n.core.ui.ChatPresenter
import org.g3n.core.ui.LoadPresenter
import org.g3n.core.ui.Threads
import java.io.File
import java.util.concurrent.Executors

/** Holds what outlives a screen: the engine and the presenters around it. */
class G3nApplication : Application() {
    val threads = AndroidThreads()
    val session by lazy { FileSessionStore(File(filesDir, "session.json")) }
    val importFolder: File by lazy { File(filesDir, "bundles") }

    val loader by lazy {
        LoadPresenter(
            places = listOfNotNull(PUSHED, importFolder, getExternalFilesDir("bundles")),
            engines = Engines,
            runtimes = Engines.available,
            device = ::memory,
            threads = threads,
            cacheDirectory = cacheDir,
            engineThreads = ENGINE_THREADS,
            keys = FileAcceptedKeys(File(filesDir, "accepted_keys")),
        )
    }

    /** The conversation with the loaded bundle, if one is loaded. */
    var chat: ChatPresenter? = null

    private fun memory(): DeviceMemory {
        val info = ActivityManager.MemoryInfo()
        (getSystemService(Context.ACTIVITY_SERVICE) as ActivityManager).getMemoryInfo(info)
        return DeviceMemory(info.totalMem, info.availMem, info.threshold)
    }

    private companion object {
        /** Where `g3n-push` puts bundles. */
        val PUSHED = File("/data/local/tmp/g3n")

        /** The large cores of most phones; the small ones slow a matrix product down. */
        const val ENGINE_THREADS = 4
    }
}

/** The application that [this] screen belongs to. */
internal val Activity.g3n: G3nApplication get() = application as G3nApplication

/** The view [id], which the screen's layout has. */
@Suppress("UNCHECKED_CAST")
internal fun <T : View> Activity.view(id: Int): T = (findViewById(id) as View) as T

/** Main looper and one background thread: an engine takes one call at a time. */
class AndroidThreads : Threads {
    private val worker = Executors.newSingleThreadExecutor { Thread(it, "g3n-engine") }
    private val handler = Handler(Looper.getMainLooper())

    override fun background(work: () -> Unit) = worker.execute(work)

    override fun main(work: () -> Unit) {
        handler.post(work)
    }
}
