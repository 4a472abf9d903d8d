package org.g3n.core.text

import com.google.gson.stream.JsonReader
import com.google.gson.stream.JsonToken
import org.g3n.core.bundle.Json
import org.g3n.core.engine.EngineException
import java.io.File
import java.io.IOException
import java.io.Reader

/**
 * Gemma's tokenizer from its `tokenizer.json`: BPE over characters with spaces as `▁`, bytes for what is unknown.
 *
 * The file of the full models has 33 MB, so it is read as a stream and merges are kept in primitive arrays. A file of
 * another kind is refused.
 */
class GemmaTokenizer private constructor(
    private val ids: Map<String, Int>,
    private val merges: MergeRanks,
    private val added: Added,
) {
    private val raw = AddedTokens(added.raw)
    private val normalized = AddedTokens(added.normalized)
    private val names: Array<String?> = arrayOfNulls<String>(1 + (ids.values + added.all.values).max())
    private val byteIds = IntArray(256) { ids["<0x%02X>".format(it)] ?: throw EngineException("the tokenizer lacks byte $it") }

    init {
        for ((name, id) in ids) names[id] = name
        for ((name, id) in added.all) names[id] = name
    }

    /** Ids of [text], without a leading bos; control tokens such as `<end_of_turn>` are recognised in it. */
    fun encode(text: String): IntArray {
        val out = IntList()
        raw.split(text, out::add) { rest ->
            normalized.split(rest.replace(' ', SPACE), out::add) { encodePlain(it, out) }
        }
        return out.toArray()
    }

    /** The name of [id] as the vocabulary has it, such as `▁river` or `<0x0A>`. */
    fun name(id: Int): String = names.getOrNull(id) ?: throw EngineException("token $id is outside the vocabulary")

    /** The byte that [id] stands for, or -1. */
    fun byteOf(id: Int): Int = byteIds.indexOf(id)

    /** Tokens cut out of a text as it is, and those cut out of what is left once its spaces are replaced. */
    private class Added {
        val raw = HashMap<String, Int>()
        val normalized = HashMap<String, Int>()
        val all: Map<String, Int> get() = raw + normalized
    }

    private fun encodePlain(text: String, out: IntList) {
        val symbols = IntList()
        var i = 0
        while (i < text.length) {
            val length = Character.charCount(text.codePointAt(i))
            val character = text.substring(i, i + length)
            val id = ids[character]
            if (id != null) symbols.add(id) else for (byte in character.encodeToByteArray()) symbols.add(byteIds[byte.toInt() and 0xFF])
            i += length
        }
        merges.merge(symbols).forEach(out::add)
    }

    companion object {
        private const val SPACE = '▁'

        /** Reads [file]; raises [EngineException] if it is no tokenizer of Gemma's kind. */
        fun load(file: File): GemmaTokenizer = try {
            file.bufferedReader().use(::read)
        } catch (error: IOException) {
            throw EngineException("${file.name} cannot be read as a tokenizer: ${error.message}", error)
        } catch (error: IllegalStateException) {
            throw EngineException("${file.name} is no tokenizer of Gemma's kind: ${error.message}", error)
        }

        private fun read(source: Reader): GemmaTokenizer {
            val reader = JsonReader(source)
            var added = Added()
            var model: Model? = null
            reader.beginObject()
            while (reader.hasNext()) {
                when (reader.nextName()) {
                    "added_tokens" -> added = readAdded(reader)
                    "model" -> model = readModel(reader)
                    "normalizer" -> requireOnSpaces(reader, "Replace")
                    "pre_tokenizer" -> requireOnSpaces(reader, "Split")
                    else -> reader.skipValue()
                }
            }
            reader.endObject()
            val (ids, pairs) = checkNotNull(model) { "it has no model" }
            return GemmaTokenizer(ids, MergeRanks.of(ids, pairs), added)
        }

        /** Spaces become `▁` before anything else, so that a split at spaces, which the full models name, does nothing. */
        private fun requireOnSpaces(reader: JsonReader, type: String) {
            val step = Json.next(reader) as? Map<*, *> ?: return
            check(step["type"] == type && step["pattern"] == mapOf("String" to " ")) { "it has the step $step" }
        }

        private fun readAdded(reader: JsonReader): Added {
            val out = Added()
            reader.beginArray()
            while (reader.hasNext()) {
                var id = -1
                var content = ""
                var isNormalized = false
                reader.beginObject()
                while (reader.hasNext()) {
                    when (reader.nextName()) {
                        "id" -> id = reader.nextInt()
                        "content" -> content = reader.nextString()
                        "normalized" -> isNormalized = reader.nextBoolean()
                        "lstrip", "rstrip", "single_word" ->
                            check(!reader.nextBoolean()) { "an added token is matched in a way that Gemma's are not" }
                        else -> reader.skipValue()
                    }
                }
                reader.endObject()
                check(id in 0 until MAX_VOCABULARY && content.isNotEmpty()) { "an added token has id $id" }
                if (isNormalized) out.normalized[content.replace(' ', SPACE)] = id else out.raw[content] = id
            }
            reader.endArray()
            return out
        }

        private data class Model(val ids: Map<String, Int>, val pairs: List<String>)

        private fun readModel(reader: JsonReader): Model {
            val ids = HashMap<String, Int>()
            val pairs = ArrayList<String>()
            reader.beginObject()
            while (reader.hasNext()) {
                when (reader.nextName()) {
                    "type" -> reader.nextString().let { check(it == "BPE") { "its model is $it" } }
                    "byte_fallback" -> check(reader.nextBoolean()) { "it has no byte fallback" }
                    "ignore_merges" -> check(!reader.nextBoolean()) { "it ignores merges" }
                    "vocab" -> readVocabulary(reader, ids)
                    "merges" -> readMerges(reader, pairs)
                    else -> reader.skipValue()
                }
            }
            reader.endObject()
            check(ids.isNotEmpty()) { "its vocabulary is empty" }
            return Model(ids, pairs)
        }

        private fun readVocabulary(reader: JsonReader, ids: MutableMap<String, Int>) {
            reader.beginObject()
            while (reader.hasNext()) {
                val name = reader.nextName()
                val id = reader.nextInt()
                check(id in 0 until MAX_VOCABULARY) { "a token has id $id" }
                ids[name] = id
            }
            reader.endObject()
        }

        /** Left and right of each merge one after the other; both spellings of the file are read. */
        private fun readMerges(reader: JsonReader, pairs: MutableList<String>) {
            reader.beginArray()
            while (reader.hasNext()) {
                if (reader.peek() == JsonToken.BEGIN_ARRAY) {
                    reader.beginArray()
                    pairs += reader.nextString()
                    pairs += reader.nextString()
                    reader.endArray()
                } else {
                    val pair = reader.nextString().split(' ')
                    check(pair.size == 2) { "a merge has ${pair.size} parts" }
                    pairs += pair
                }
            }
            reader.endArray()
        }

        private const val MAX_VOCABULARY = 1 shl 20
    }
}
