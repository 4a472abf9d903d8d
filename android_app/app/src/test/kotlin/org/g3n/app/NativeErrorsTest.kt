package org.g3n.app

import org.g3n.core.engine.EngineException
import org.junit.Test
import kotlin.test.assertEquals
import kotlin.test.assertFailsWith

class NativeErrorsTest {
    @Test
    fun `what a library says when it is freed ends nothing`() {
        var freed = 0
        quietly { throw IllegalStateException("Conversation is not alive.") }
        quietly { throw UnsatisfiedLinkError("no executorch in java.library.path") }
        quietly { freed++ }
        assertEquals(1, freed)
        assertFailsWith<OutOfMemoryError> { quietly { throw OutOfMemoryError() } }
    }

    @Test
    fun `its errors and one that does not load become the engine's`() {
        assertEquals("no kernel", assertFailsWith<EngineException> { translated { throw RuntimeException("no kernel") } }.message)
        val error = assertFailsWith<EngineException> { translated { throw UnsatisfiedLinkError("no executorch") } }
        assertEquals("ExecuTorch's library does not load: no executorch", error.message)
        assertEquals(7, translated { 7 })
    }
}
