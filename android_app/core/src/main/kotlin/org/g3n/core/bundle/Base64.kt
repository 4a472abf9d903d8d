package org.g3n.core.bundle

import java.io.ByteArrayOutputStream

/** Base64 of RFC 4648 with padding. The platform's own decoders skip what is none, or are missing on older systems. */
internal object Base64 {
    private const val ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    private const val QUARTET = 4

    /** The bytes that [text] encodes, or `null` if it encodes none. */
    fun decode(text: String): ByteArray? {
        val padding = text.length - text.trimEnd('=').length
        if (text.length % QUARTET != 0 || padding > 2) return null
        val out = ByteArrayOutputStream(text.length / QUARTET * 3)
        var bits = 0
        var held = 0
        for (character in text.dropLast(padding)) {
            val value = ALPHABET.indexOf(character)
            if (value < 0) return null
            bits = bits shl 6 or value
            held += 6
            if (held >= 8) {
                held -= 8
                out.write(bits shr held)
                bits = bits and ((1 shl held) - 1)
            }
        }
        return out.toByteArray()
    }
}
