package org.g3n.core.text

import java.io.ByteArrayOutputStream
import java.nio.ByteBuffer
import java.nio.CharBuffer
import java.nio.charset.CodingErrorAction

/** Turns tokens into text as they come: a character that is spelled by several byte tokens is passed on whole. */
class PieceStream(private val tokenizer: GemmaTokenizer, private val onText: (String) -> Unit) {
    private val bytes = ByteArrayOutputStream()

    fun feed(id: Int) {
        val byte = tokenizer.byteOf(id)
        if (byte < 0) {
            flush(final = true)
            emit(tokenizer.name(id).replace('▁', ' '))
        } else {
            bytes.write(byte)
            flush(final = false)
        }
    }

    /** Passes on what is left; bytes that are no character become U+FFFD. */
    fun end() = flush(final = true)

    private fun flush(final: Boolean) {
        if (bytes.size() == 0) return
        val input = ByteBuffer.wrap(bytes.toByteArray())
        val output = CharBuffer.allocate(bytes.size())
        val decoder = Charsets.UTF_8.newDecoder().onMalformedInput(CodingErrorAction.REPLACE)
        decoder.decode(input, output, final)
        bytes.reset()
        while (input.hasRemaining()) bytes.write(input.get().toInt())
        emit(output.flip().toString())
    }

    private fun emit(text: String) {
        if (text.isNotEmpty()) onText(text)
    }
}
