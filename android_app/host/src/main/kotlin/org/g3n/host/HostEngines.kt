package org.g3n.host

import com.facebook.soloader.nativeloader.NativeLoader
import com.facebook.soloader.nativeloader.NativeLoaderDelegate
import org.g3n.app.Engines
import org.g3n.app.LlmModuleEngine
import org.g3n.app.ModuleProgram
import org.g3n.core.bundle.Runtime
import org.g3n.core.engine.DecoderEngine
import org.g3n.core.engine.Engine
import org.g3n.core.engine.EngineFactory

/**
 * The app's own [Engines] on a computer's JVM, over the native shims in the folder that the system property `g3n.shims`
 * names.
 *
 * The app takes the first of two ways through ExecuTorch that loads a bundle; [only] asks for one of them.
 */
class HostEngines(private val only: Way? = null) : EngineFactory {
    /** A way through ExecuTorch's Java classes. */
    enum class Way {
        /** Our loop over its `Module`, which takes no data file. */
        MODULE,

        /** Its own runner of language models. */
        LLM_MODULE,
    }

    override val runtimes: Set<Runtime> get() = Engines.runtimes

    override fun create(runtime: Runtime): Engine {
        if (runtime == Runtime.EXECUTORCH) libraries(if (only == Way.MODULE) listOf(PROGRAMS) else listOf(PROGRAMS, RUNNER))
        return when (only.takeIf { runtime == Runtime.EXECUTORCH }) {
            Way.MODULE -> DecoderEngine { path, _, threads -> ModuleProgram(path, DecoderEngine.METHOD, threads) }
            Way.LLM_MODULE -> LlmModuleEngine()
            null -> Engines.create(runtime)
        }
    }

    private fun libraries(names: List<String>) {
        val paths = names.map { "${System.getProperty("g3n.shims")}/$it" }
        paths.forEach(System::load)
        NativeLoader.initIfUninitialized(Loaded(paths.first()))
    }

    /** Has loaded it all: what ExecuTorch's and fbjni's classes ask for are the shims' methods. */
    private class Loaded(private val path: String) : NativeLoaderDelegate {
        override fun loadLibrary(name: String, flags: Int): Boolean = true

        override fun getLibraryPath(name: String): String = path

        override fun getSoSourcesVersion(): Int = 0
    }

    private companion object {
        const val PROGRAMS = "libg3n_executorch.so"

        /** With PyTorch, which its runner lies beside: a second of loading. */
        const val RUNNER = "libg3n_executorch_llm.so"
    }
}
