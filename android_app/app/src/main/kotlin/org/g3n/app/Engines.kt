package org.g3n.app

import org.g3n.core.bundle.Runtime
import org.g3n.core.engine.CheckedCache
import org.g3n.core.engine.DecoderEngine
import org.g3n.core.engine.Engine
import org.g3n.core.engine.EngineException
import org.g3n.core.engine.EngineFactory
import org.g3n.core.engine.FirstThatLoads

/** The engines whose libraries are packed into this APK; one built without an SDK may lack some. */
object Engines : EngineFactory {
    /** What each engine cannot do without. */
    val classes: Map<Runtime, List<String>> = mapOf(
        Runtime.LITERT to listOf("com.google.ai.edge.litertlm.Engine"),
        Runtime.EXECUTORCH to listOf(
            "org.pytorch.executorch.Module",
            "org.pytorch.executorch.extension.llm.LlmModule",
            "com.facebook.jni.HybridData",
            "com.facebook.soloader.nativeloader.NativeLoader",
        ),
    )

    override val runtimes: Set<Runtime> = classes.filterValues { names -> names.all(::exists) }.keys

    override fun create(runtime: Runtime): Engine {
        if (runtime !in runtimes) throw EngineException("this build of the app carries no engine for ${runtime.id}")
        return when (runtime) {
            Runtime.LITERT -> CheckedCache(LiteRtLmEngine())
            Runtime.EXECUTORCH -> FirstThatLoads(
                DecoderEngine { path, _, threads -> ModuleProgram(path, DecoderEngine.METHOD, threads) },
                LlmModuleEngine(),
            )
        }
    }

    private fun exists(name: String): Boolean = try {
        Class.forName(name, false, Engines::class.java.classLoader)
        true
    } catch (_: ClassNotFoundException) {
        false
    }
}
