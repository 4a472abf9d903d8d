package org.g3n.host

import org.g3n.app.LiteRtLmEngine
import org.g3n.core.bundle.Runtime
import org.g3n.core.engine.DecoderEngine
import org.g3n.core.engine.Engine
import org.g3n.core.engine.EngineFactory

/**
 * The app's engines on a computer's JVM: its own [LiteRtLmEngine], and its own loop over ExecuTorch's wheel.
 *
 * The system property `g3n.shims` names the folder of the native shims.
 */
class HostEngines : EngineFactory {
    override val runtimes: Set<Runtime> = Runtime.entries.toSet()

    override fun create(runtime: Runtime): Engine = when (runtime) {
        Runtime.LITERT -> LiteRtLmEngine()
        Runtime.EXECUTORCH -> {
            System.load("${System.getProperty("g3n.shims")}/libg3n_executorch.so")
            DecoderEngine(::HostProgram)
        }
    }
}
