package org.g3n.core.engine

import java.io.File
import java.io.RandomAccessFile
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.nio.channels.FileChannel

/**
 * An embedding table in a `.ptd`, read row by row from flash: nothing of it stays in memory.
 *
 * @param layout `[rows, width, bits, values offset, scales offset]`, as the program's constant methods give it.
 */
class MappedTable(file: File, layout: LongArray) : AutoCloseable {
    val rows: Int = layout[0].toInt()
    val width: Int = layout[1].toInt()
    private val bits = layout[2].toInt()
    private val valuesOffset = layout[3]
    private val scalesOffset = layout[4]
    private val rowBytes = width * bits / Byte.SIZE_BITS
    private val channel: FileChannel = RandomAccessFile(file, "r").channel
    private val row = ByteBuffer.allocate(rowBytes).order(ByteOrder.LITTLE_ENDIAN)
    private val scale = ByteBuffer.allocate(Float.SIZE_BYTES).order(ByteOrder.LITTLE_ENDIAN)

    init {
        val end = valuesOffset + rows.toLong() * rowBytes
        val fits = bits in setOf(4, 8, 32) && rows > 0 && width > 0 && valuesOffset >= 0 && end <= channel.size()
        if (!fits) throw EngineException("${file.name} does not hold the table that the program describes: copy it again")
    }

    /** Writes the row of [token] times [factor] into [out] from [offset] on; a token outside the table reads row 0. */
    fun readRow(token: Int, factor: Float, out: FloatArray, offset: Int) {
        val index = if (token in 0 until rows) token else 0
        fill(row, valuesOffset + index.toLong() * rowBytes)
        if (bits == Float.SIZE_BITS) {
            for (i in 0 until width) out[offset + i] = row.getFloat(i * Float.SIZE_BYTES) * factor
            return
        }
        fill(scale, scalesOffset + index.toLong() * Float.SIZE_BYTES)
        val rowScale = scale.getFloat(0)
        for (i in 0 until width) out[offset + i] = integer(i) * rowScale * factor
    }

    private fun integer(i: Int): Float {
        if (bits == Byte.SIZE_BITS) return row.get(i).toFloat()
        val pair = row.get(i / 2).toInt()
        // The first of two values is in the high nibble.
        return ((if (i % 2 == 0) pair shr 4 and 0xF else pair and 0xF) - NIBBLE_ZERO).toFloat()
    }

    private fun fill(buffer: ByteBuffer, position: Long) {
        buffer.clear()
        while (buffer.hasRemaining()) {
            if (channel.read(buffer, position + buffer.position()) < 0) throw EngineException("the table ends too early")
        }
    }

    override fun close() = channel.close()

    private companion object {
        const val NIBBLE_ZERO = 8
    }
}
