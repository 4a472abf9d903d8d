package org.g3n.app

import org.g3n.core.engine.EngineFactory
import org.g3n.host.HostEngines
import java.io.File

/** The app with its own engines, and with files that outlive it as a phone's do. */
class AppWithEngines : TestApplication() {
    override var engines: EngineFactory = HostEngines()

    override fun getFilesDir(): File = property("files").apply { mkdirs() }

    companion object {
        /** A file or folder that `android_app/tests/test_screens.py` names. */
        fun property(name: String): File = File(checkNotNull(System.getProperty("g3n.$name")) { "run with -Dg3n.$name=PATH" })
    }
}
