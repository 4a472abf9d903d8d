package org.g3n.core

import org.g3n.core.bundle.Bundle
import org.g3n.core.bundle.Device
import org.g3n.core.bundle.Modality
import org.g3n.core.bundle.Runtime
import org.g3n.core.bundle.Sampling
import org.g3n.core.chat.Turn
import org.g3n.core.engine.Answer
import org.g3n.core.engine.CheckedCache
import org.g3n.core.engine.Engine
import org.g3n.core.engine.EngineConfig
import org.g3n.core.engine.EngineException
import org.g3n.core.engine.Finish
import org.g3n.core.engine.Notice
import org.g3n.core.engine.StopSignal
import org.junit.Rule
import org.junit.Test
import org.junit.rules.TemporaryFolder
import java.io.File
import kotlin.test.assertEquals
import kotlin.test.assertFailsWith
import kotlin.test.assertFalse
import kotlin.test.assertNull
import kotlin.test.assertTrue

class CheckedCacheTest {
    @get:Rule
    val temporary = TemporaryFolder()

    private val bundle by lazy { Bundle.open(BundleMaker(temporary.newFolder()).make()) }
    private val folder by lazy { temporary.newFolder() }

    /** Keeps its weights in the folder that it gets; what it reads back is [garbled], or refused. */
    private class KeepingEngine(private val garbled: Boolean = false, private val refuses: Boolean = false) : Engine {
        override val modalities = setOf(Modality.TEXT)
        var answers = 0
        var hasKept = false
        var fromKept = false

        override fun initialize(config: EngineConfig) {
            val kept = config.cacheDirectory?.let { File(it, "weights") }
            hasKept = kept != null
            fromKept = kept?.exists() == true
            if (fromKept && refuses) throw EngineException("the cache cannot be read")
            kept?.writeText("packed")
        }

        override fun run(turns: List<Turn>, sampling: Sampling, maxNewTokens: Int, stop: StopSignal, onPiece: (String) -> Unit): Answer {
            assertEquals(Sampling.GREEDY, sampling)
            answers++
            onPiece(if (fromKept && garbled) "tw tw tw" else "a river")
            return Answer(Finish.END_OF_TURN, null, 1)
        }

        override fun reset() = Unit

        override fun cleanUp() = Unit
    }

    private fun config(device: Device = Device.CPU) = EngineConfig(bundle, Runtime.LITERT, device, 1, folder)

    private fun launch(engine: KeepingEngine, device: Device = Device.CPU): Notice? =
        CheckedCache(engine).apply { initialize(config(device)) }.notice

    @Test
    fun `a cache that is read back rightly is used from the second launch on, and asked once more`() {
        val engine = KeepingEngine()
        val seen = List(4) {
            assertNull(launch(engine))
            engine.fromKept to engine.answers
        }
        assertEquals(listOf(false to 1, true to 2, true to 2, true to 2), seen)
    }

    @Test
    fun `one that is read back as garbage is deleted and never used again`() {
        val engine = KeepingEngine(garbled = true)
        assertEquals(listOf(null, Notice.CACHE_OFF, Notice.CACHE_OFF), List(3) { launch(engine) })
        assertFalse(engine.hasKept)
        assertFalse(folder.walk().any { it.name == "weights" })
    }

    @Test
    fun `so is one that the engine refuses`() {
        val engine = KeepingEngine(refuses = true)
        assertEquals(listOf(null, Notice.CACHE_OFF, Notice.CACHE_OFF), List(3) { launch(engine) })
    }

    @Test
    fun `an engine that refuses with and without a cache is told, and the next launch tries again`() {
        launch(KeepingEngine())
        val broken = object : Engine by KeepingEngine() {
            override fun initialize(config: EngineConfig) = throw EngineException("not enough memory")
        }
        assertFailsWith<EngineException> { CheckedCache(broken).initialize(config()) }
        val engine = KeepingEngine()
        assertNull(launch(engine))
        assertTrue(engine.fromKept)
    }

    @Test
    fun `what an interrupted first launch left is not read`() {
        launch(KeepingEngine())
        folder.walk().filter { it.name == CheckedCache.FIRST_ANSWER }.forEach { it.delete() }
        val engine = KeepingEngine(garbled = true)
        assertNull(launch(engine))
        assertFalse(engine.fromKept)
    }

    @Test
    fun `an accelerator and a full disk get no cache`() {
        val engine = KeepingEngine()
        launch(engine, Device.ACCELERATOR)
        assertFalse(engine.hasKept)
        assertTrue(folder.delete() && folder.createNewFile())
        launch(engine)
        assertFalse(engine.hasKept)
    }
}
