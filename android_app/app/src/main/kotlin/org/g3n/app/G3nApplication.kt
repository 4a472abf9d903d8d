package org.g3n.app

import android.app.Activity
import android.app.ActivityManager
import android.app.Application
import android.content.Context
import android.os.Debug
import android.view.View
import org.g3n.core.chat.Attachment
import org.g3n.core.chat.FolderAttachments
import org.g3n.core.device.DeviceMemory
import org.g3n.core.engine.EngineFactory
import org.g3n.core.session.FileAcceptedKeys
import org.g3n.core.session.FileCheckedFiles
import org.g3n.core.session.FileSessionStore
import org.g3n.core.ui.ChatEnvironment
import org.g3n.core.ui.ChatPresenter
import org.g3n.core.ui.Clock
import org.g3n.core.ui.Lane
import org.g3n.core.ui.LoadEnvironment
import org.g3n.core.ui.LoadPresenter
import org.g3n.core.ui.SelfTestPresenter
import org.g3n.core.ui.Threads
import java.io.File

/** Holds what outlives a screen: the engine and the presenters around it. */
open class G3nApplication : Application() {
    /** What runs bundles; a test of the screens gives its own. */
    open val engines: EngineFactory get() = Engines

    /** Times answers. */
    open val clock: Clock get() = Clock(System::nanoTime)

    /** What the app occupies, in bytes; slow. */
    open fun occupied(): Long = Debug.getPss() * KIB

    val threads: Threads by lazy { AndroidThreads() }
    val attachments: File by lazy { File(filesDir, "attachments").apply { mkdirs() } }
    val importFolder: File by lazy { File(filesDir, "bundles") }
    private val store by lazy { FileSessionStore(File(filesDir, "session.json")) }

    val loader by lazy {
        val environment = LoadEnvironment(
            device = ::memory,
            threads = threads,
            cacheDirectory = cacheDir,
            engineThreads = ENGINE_THREADS,
            keys = FileAcceptedKeys(File(filesDir, "accepted_keys")),
            checked = FileCheckedFiles(File(filesDir, "checked_files")),
            store = store,
        )
        val chat = ChatEnvironment(store, FolderAttachments(attachments), threads, clock, ::occupied)
        LoadPresenter(listOfNotNull(PUSHED, importFolder, getExternalFilesDir("bundles")), engines, environment) {
                engine, config, session ->
            ChatPresenter(engine, config, session, chat)
        }
    }

    /** The self-test that runs or ran last. */
    var selfTest: SelfTestPresenter? = null

    /** Puts [attachment] into the draft of the session that was kept, while no conversation is loaded. */
    fun keepForLater(attachment: Attachment) = threads.background(Lane.STORAGE) {
        store.load()?.let { store.save(it.copy(attachments = it.attachments + attachment)) }
    }

    override fun onTrimMemory(level: Int) {
        super.onTrimMemory(level)
        // The next step of the system is to end the process; freeing the engine may be enough.
        if (level >= TRIM_MEMORY_MODERATE) loader.releaseIfIdle()
    }

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
        const val KIB = 1024L
    }
}

/** The application that [this] screen belongs to. */
internal val Activity.g3n: G3nApplication get() = application as G3nApplication

/** The view [id], which the screen's layout has. */
@Suppress("UNCHECKED_CAST")
internal fun <T : View> Activity.view(id: Int): T = (findViewById(id) as View) as T
