package org.g3n.app

import androidx.test.ext.junit.runners.AndroidJUnit4
import androidx.test.platform.app.InstrumentationRegistry
import org.g3n.core.bundle.Bundle
import org.g3n.core.bundle.Device
import org.g3n.core.bundle.HashCheck
import org.g3n.core.bundle.Runtime
import org.g3n.core.bundle.Sampling
import org.g3n.core.chat.Role
import org.g3n.core.chat.Turn
import org.g3n.core.engine.EngineConfig
import org.junit.Assert.assertEquals
import org.junit.Assert.assertFalse
import org.junit.Test
import org.junit.runner.RunWith
import java.io.File

/**
 * Golden prompts of a pushed bundle on a device, in every engine of the APK.
 *
 * Push nano compiled with `--quant fp32` first: without quantisation every CPU says the same words. Not run by the
 * project's own CI, which has neither a device nor an emulator.
 */
@RunWith(AndroidJUnit4::class)
class GoldenPromptsTest {
    private val folder = File("/data/local/tmp/g3n")

    @Test
    fun everyEngineSaysWhatTheHostSaid() {
        val bundles = folder.listFiles().orEmpty().filter { File(it, "manifest.json").isFile }
        assertFalse("push a bundle with g3n-push first", bundles.isEmpty())
        for (directory in bundles) {
            val bundle = Bundle.open(directory)
            HashCheck.run(bundle)
            for (runtime in bundle.manifest.runtimes) compare(bundle, runtime)
        }
    }

    private fun compare(bundle: Bundle, runtime: Runtime) {
        val cache = InstrumentationRegistry.getInstrumentation().targetContext.cacheDir
        val engine = Engines.create(runtime)
        engine.initialize(EngineConfig(bundle, runtime, Device.CPU, threads = 2, cacheDirectory = cache))
        try {
            for (golden in bundle.manifest.golden.filter { it.runtime == runtime }) {
                val text = StringBuilder()
                engine.run(listOf(Turn(Role.USER, golden.prompt)), Sampling.GREEDY, TOKENS) { text.append(it) }
                assertEquals("$runtime: ${golden.prompt}", golden.text.trim(), text.toString().trim())
            }
        } finally {
            engine.cleanUp()
        }
    }

    private companion object {
        /** As many as the compiler lets golden prompts have. */
        const val TOKENS = 24
    }
}
