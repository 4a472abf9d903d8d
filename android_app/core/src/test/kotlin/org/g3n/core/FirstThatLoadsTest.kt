package org.g3n.core

import org.g3n.core.bundle.Bundle
import org.g3n.core.bundle.Device
import org.g3n.core.bundle.Modality
import org.g3n.core.bundle.Runtime
import org.g3n.core.bundle.Sampling
import org.g3n.core.chat.Role
import org.g3n.core.chat.Turn
import org.g3n.core.engine.EngineConfig
import org.g3n.core.engine.EngineException
import org.g3n.core.engine.FirstThatLoads
import org.g3n.core.engine.StopSignal
import org.junit.Rule
import org.junit.Test
import org.junit.rules.TemporaryFolder
import kotlin.test.assertEquals
import kotlin.test.assertFailsWith
import kotlin.test.assertNull

class FirstThatLoadsTest {
    @get:Rule
    val temporary = TemporaryFolder()

    private fun config() =
        EngineConfig(Bundle.open(BundleMaker(temporary.newFolder()).make()), Runtime.EXECUTORCH, Device.CPU, 1, null)

    private fun FirstThatLoads.answer(): String {
        val text = StringBuilder()
        run(listOf(Turn(Role.USER, "hi")), Sampling.GREEDY, 9, StopSignal()) { text.append(it) }
        return text.toString()
    }

    @Test
    fun `the first that loads answers`() {
        val refusing = FakeEngine(refuses = setOf(Device.CPU))
        val second = FakeEngine(mapOf("hi" to listOf("second")))
        val third = FakeEngine(mapOf("hi" to listOf("third")))
        val engine = FirstThatLoads(refusing, second, third)
        assertFailsWith<EngineException> { engine.answer() }
        engine.initialize(config())
        assertEquals("second", engine.answer())
        assertEquals(1, refusing.cleanUps, "what it left half loaded is freed")
        assertNull(third.config)
        assertEquals(Modality.entries.toSet(), engine.modalities)
        engine.reset()
        engine.cleanUp()
        assertEquals(1 to 1, second.resets to second.cleanUps)
    }

    @Test
    fun `when none loads all reasons are told`() {
        val engine = FirstThatLoads(FakeEngine(refuses = setOf(Device.CPU)), FakeEngine(refuses = setOf(Device.CPU)))
        val error = assertFailsWith<EngineException> { engine.initialize(config()) }
        assertEquals("no OpenCL library on this device; no OpenCL library on this device", error.message)
    }
}
