package org.g3n.core.bundle

import com.google.gson.stream.JsonReader
import com.google.gson.stream.JsonToken
import com.google.gson.stream.MalformedJsonException
import java.io.EOFException
import java.io.Reader
import java.io.StringReader

/**
 * Reads JSON into maps, lists, strings, booleans, `null`, [Long] for integers and [Double] for other numbers.
 *
 * Made for files from strangers: nesting is bounded, nothing recurses deeper than that bound, and a name may stand only
 * once in an object.
 */
object Json {
    const val MAX_DEPTH = 32

    /** Raises [InvalidManifest] for anything that is not exactly one JSON value. */
    fun parse(text: String): Any? = parse(StringReader(text))

    /** See [parse]; reads to the end of [source] and leaves it open. */
    fun parse(source: Reader): Any? {
        val reader = JsonReader(source)
        try {
            val value = value(reader, MAX_DEPTH)
            if (reader.peek() != JsonToken.END_DOCUMENT) throw InvalidManifest("there is text after the JSON value")
            return value
        } catch (error: MalformedJsonException) {
            throw InvalidManifest("not valid JSON: ${error.message}", error)
        } catch (error: EOFException) {
            throw InvalidManifest("the JSON breaks off: copy the file again", error)
        }
    }

    /** The next value of [reader], which is left behind it. */
    internal fun next(reader: JsonReader): Any? = value(reader, MAX_DEPTH)

    private fun value(reader: JsonReader, depth: Int): Any? = when (val token = reader.peek()) {
        JsonToken.BEGIN_OBJECT -> members(reader, deeper(depth))
        JsonToken.BEGIN_ARRAY -> items(reader, deeper(depth))
        JsonToken.STRING -> reader.nextString()
        JsonToken.NUMBER -> number(reader.nextString())
        JsonToken.BOOLEAN -> reader.nextBoolean()
        JsonToken.NULL -> {
            reader.nextNull()
            null
        }
        else -> throw InvalidManifest("not valid JSON: $token at ${reader.path}")
    }

    private fun deeper(depth: Int): Int {
        if (depth == 0) throw InvalidManifest("nested deeper than $MAX_DEPTH levels: this is no manifest")
        return depth - 1
    }

    private fun members(reader: JsonReader, depth: Int): Map<String, Any?> {
        val out = LinkedHashMap<String, Any?>()
        reader.beginObject()
        while (reader.hasNext()) {
            val name = reader.nextName()
            if (name in out) throw InvalidManifest("the name ${quoted(name)} stands twice in one object")
            out[name] = value(reader, depth)
        }
        reader.endObject()
        return out
    }

    private fun items(reader: JsonReader, depth: Int): List<Any?> {
        val out = ArrayList<Any?>()
        reader.beginArray()
        while (reader.hasNext()) out += value(reader, depth)
        reader.endArray()
        return out
    }

    private fun number(text: String): Any {
        if (text.length > MAX_NUMBER_LENGTH) throw InvalidManifest("a number of ${text.length} characters")
        val whole = text.none { it == '.' || it == 'e' || it == 'E' }
        if (whole) return text.toLongOrNull() ?: throw InvalidManifest("the integer $text is out of range")
        val value = text.toDouble()
        if (!value.isFinite()) throw InvalidManifest("the number $text is out of range")
        return value
    }

    /** [text] in quotes, cut so that a hostile name cannot fill a screen. */
    fun quoted(text: String): String =
        if (text.length <= MAX_SHOWN) "\"$text\"" else "\"${text.take(MAX_SHOWN)}…\" (${text.length} characters)"

    private const val MAX_NUMBER_LENGTH = 400
    private const val MAX_SHOWN = 80
}
