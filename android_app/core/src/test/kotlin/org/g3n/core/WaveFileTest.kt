package org.g3n.core

import org.g3n.core.chat.WaveFile
import org.junit.Rule
import org.junit.Test
import org.junit.rules.TemporaryFolder
import javax.sound.sampled.AudioSystem
import kotlin.test.assertEquals
import kotlin.test.assertFalse
import kotlin.test.assertTrue

class WaveFileTest {
    @get:Rule
    val temporary = TemporaryFolder()

    @Test
    fun `another reader hears what was written`() {
        val file = temporary.newFile("a.wav").also { it.writeText("older content that is longer than nothing") }
        WaveFile(file, WaveFile.GEMMA_RATE).use { it.write(shortArrayOf(1, -2, 300, 9), 3) }
        val stream = AudioSystem.getAudioInputStream(file)
        assertEquals(16_000f, stream.format.sampleRate)
        assertEquals(1, stream.format.channels)
        assertEquals(16, stream.format.sampleSizeInBits)
        assertEquals(listOf<Byte>(1, 0, -2, -1, 44, 1), stream.readAllBytes().toList())
    }

    @Test
    fun `a recording ends where an encoder would cut it`() {
        val file = temporary.newFile("long.wav")
        val second = ShortArray(WaveFile.GEMMA_RATE)
        WaveFile(file, WaveFile.GEMMA_RATE).use { out ->
            repeat(WaveFile.MAX_SECONDS) {
                assertFalse(out.isFull)
                out.write(second, second.size)
            }
            assertTrue(out.isFull)
            out.write(second, second.size)
        }
        assertEquals(WaveFile.MAX_SECONDS * WaveFile.GEMMA_RATE.toLong(), AudioSystem.getAudioInputStream(file).frameLength)
    }
}
