package org.g3n.core.chat

import java.io.Closeable
import java.io.File
import java.io.RandomAccessFile
import java.nio.ByteBuffer
import java.nio.ByteOrder

/** Writes one channel of 16-bit samples as a WAV file; the header is completed on [close]. */
class WaveFile(file: File, private val rate: Int) : Closeable {
    private val out = RandomAccessFile(file, "rw").apply {
        setLength(0)
        write(ByteArray(HEADER))
    }
    private var samples = 0

    /** Whether [MAX_SECONDS] are written: what an encoder takes at once, and more would be cut without a word. */
    val isFull: Boolean get() = samples >= MAX_SECONDS * rate

    /** Appends the first [count] of [data]; what is beyond [MAX_SECONDS] is left out. */
    fun write(data: ShortArray, count: Int) {
        val taken = minOf(count, MAX_SECONDS * rate - samples)
        val bytes = ByteBuffer.allocate(taken * Short.SIZE_BYTES).order(ByteOrder.LITTLE_ENDIAN)
        for (i in 0 until taken) bytes.putShort(data[i])
        out.write(bytes.array())
        samples += taken
    }

    override fun close() {
        val dataBytes = samples * Short.SIZE_BYTES
        val header = ByteBuffer.allocate(HEADER).order(ByteOrder.LITTLE_ENDIAN)
        header.put("RIFF".encodeToByteArray()).putInt(HEADER - CHUNK_HEADER + dataBytes).put("WAVEfmt ".encodeToByteArray())
        header.putInt(FORMAT_BYTES).putShort(PCM).putShort(1)
        header.putInt(rate).putInt(rate * Short.SIZE_BYTES).putShort(Short.SIZE_BYTES.toShort())
        header.putShort(Short.SIZE_BITS.toShort()).put("data".encodeToByteArray()).putInt(dataBytes)
        out.use {
            it.seek(0)
            it.write(header.array())
        }
    }

    companion object {
        const val GEMMA_RATE = 16_000
        const val MAX_SECONDS = 30

        /** Less than this is a slip of the finger. */
        const val MIN_SECONDS = 0.3f
        const val BYTES_PER_SECOND = GEMMA_RATE * Short.SIZE_BYTES
        const val HEADER_BYTES = 44
        private const val HEADER = HEADER_BYTES
        private const val CHUNK_HEADER = 8
        private const val FORMAT_BYTES = 16
        private const val PCM: Short = 1
    }
}
