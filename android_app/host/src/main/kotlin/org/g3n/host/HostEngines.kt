package org.g3n.host

import com.facebook.soloader.nativeloader.NativeLoader
import com.facebook.soloader.nativeloader.NativeLoaderDelegate
import org.g3n.app.LiteRtLmEngine
import org.g3n.app.ModuleProgram
import org.g3n.core.bundle.Runtime
import org.g3n.core.engine.DecoderEngine
import org.g3n.core.engine.Engine
import org.g3n.core.engine.EngineFactory

/**
 * The app's engines on a computer's JVM: its own [LiteRtLmEngine], and its own loop over ExecuTorch.
 *
 * ExecuTorch's Java `Module` takes no data file and the programs whose head lies in one do not load by it; the loop then
 * runs over a shim of ours that does. The system property `g3n.shims` names the folder of the native shims, and
 * `g3n.module` set to `true` asks for the Java classes.
 */
class HostEngines : EngineFactory {
    override val runtimes: Set<Runtime> = Runtime.entries.toSet()

    override fun create(runtime: Runtime): Engine = when (runtime) {
        Runtime.LITERT -> LiteRtLmEngine()
        Runtime.EXECUTORCH -> {
            val shim = "${System.getProperty("g3n.shims")}/libg3n_executorch.so"
            System.load(shim)
            NativeLoader.initIfUninitialized(OneLibrary(shim))
            if (System.getProperty("g3n.module").toBoolean()) {
                DecoderEngine { path, _, threads -> ModuleProgram(path, DecoderEngine.METHOD, threads) }
            } else {
                DecoderEngine(::HostProgram)
            }
        }
    }

    /** Has loaded it all: what ExecuTorch's and fbjni's classes ask for are the shim's methods. */
    private class OneLibrary(private val path: String) : NativeLoaderDelegate {
        override fun loadLibrary(name: String, flags: Int): Boolean = true

        override fun getLibraryPath(name: String): String = path

        override fun getSoSourcesVersion(): Int = 0
    }
}
