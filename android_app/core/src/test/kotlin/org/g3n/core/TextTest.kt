package org.g3n.core

import org.g3n.core.bundle.Sampling
import org.g3n.core.chat.ChatTemplate
import org.g3n.core.chat.Role
import org.g3n.core.chat.Turn
import org.g3n.core.chat.TurnTexts
import org.g3n.core.engine.EngineException
import org.g3n.core.engine.MappedTable
import org.g3n.core.engine.Sampler
import org.g3n.core.text.GemmaTokenizer
import org.g3n.core.text.PieceStream
import org.junit.Rule
import org.junit.Test
import org.junit.rules.TemporaryFolder
import java.util.Base64
import kotlin.test.assertContentEquals
import kotlin.test.assertEquals
import kotlin.test.assertFailsWith
import kotlin.test.assertTrue

class TextTest {
    @get:Rule
    val temporary = TemporaryFolder()

    private val tokenizerFile = Golden.repositoryFile("compiler/g3n_compiler/nano/checkpoint/tokenizer.json")

    @Test
    fun `conversations are rendered as the Jinja template does`() {
        for (golden in Golden.cases("conversations.json")) {
            val template = ChatTemplate(texts(golden["template"] as Map<*, *>))
            for (case in golden["cases"] as List<*>) {
                val turns = ((case as Map<*, *>)["turns"] as List<*>).map { turn(it as Map<*, *>) }
                val prompt = case["prompt"]
                if (prompt == null) {
                    assertFailsWith<IllegalArgumentException> { template.render(turns) }
                } else {
                    assertEquals(prompt, template.render(turns))
                }
            }
        }
    }

    private fun texts(entry: Map<*, *>): TurnTexts = TurnTexts(
        entry["first"] as String,
        (entry["system"] as List<*>?)?.let { (before, after) -> before as String to after as String },
        entry["answer"] as String,
        entry["next"] as String,
        entry["generation"] as String,
        entry["strip_user"] as Boolean,
        entry["strip_answer"] as Boolean,
        entry["strip_system"] as Boolean,
    )

    private fun turn(message: Map<*, *>): Turn {
        val role = mapOf("user" to Role.USER, "assistant" to Role.MODEL, "system" to Role.SYSTEM).getValue(message["role"] as String)
        return Turn(role, message["content"] as String)
    }

    @Test
    fun `a template or conversation out of form is refused`() {
        val template = ChatTemplate(TurnTexts("", null, "", "", "", false, false, false))
        assertFailsWith<IllegalArgumentException> { template.render(listOf(Turn(Role.SYSTEM, "x"), Turn(Role.USER, "y"))) }
        assertFailsWith<IllegalArgumentException> { template.render(emptyList()) }
        assertFailsWith<IllegalArgumentException> { template.render(listOf(Turn(Role.MODEL, "x"))) }
        assertFailsWith<IllegalArgumentException> { template.render(listOf(Turn(Role.USER, "x"), Turn(Role.USER, "y"))) }
    }

    @Test
    fun `texts become the ids of the tokenizers library`() {
        val tokenizer = GemmaTokenizer.load(tokenizerFile)
        for (case in Golden.cases("tokens.json")) {
            val text = case["text"] as String
            val expected = (case["ids"] as List<*>).map { (it as Long).toInt() }
            assertEquals(expected, tokenizer.encode(text).toList(), "text $text")
            assertEquals(text.replace('▁', ' '), decode(tokenizer, expected), "back again")
        }
    }

    private fun decode(tokenizer: GemmaTokenizer, ids: List<Int>): String {
        val out = StringBuilder()
        val stream = PieceStream(tokenizer) { out.append(it) }
        ids.forEach(stream::feed)
        stream.end()
        return out.toString()
    }

    @Test
    fun `a character in several tokens is passed on whole`() {
        val tokenizer = GemmaTokenizer.load(tokenizerFile)
        val pieces = ArrayList<String>()
        val stream = PieceStream(tokenizer) { pieces += it }
        val ids = tokenizer.encode("👍")
        assertEquals(4, ids.size)
        ids.forEach(stream::feed)
        assertEquals(listOf("👍"), pieces)
        stream.feed(ids[0])
        stream.end()
        assertEquals(listOf("👍", "\uFFFD"), pieces)
    }

    @Test
    fun `another kind of tokenizer is refused`() {
        for (text in listOf("{}", "{\"model\":{\"type\":\"Unigram\"}}", "{\"pre_tokenizer\":{\"type\":\"ByteLevel\"}}", "not json", "[")) {
            val file = temporary.newFile().also { it.writeText(text) }
            assertFailsWith<EngineException>(text) { GemmaTokenizer.load(file) }
        }
    }

    @Test
    fun `rows of every table format are read`() {
        for (case in Golden.cases("tables.json")) {
            val file = temporary.newFile().also { it.writeBytes(Base64.getDecoder().decode(case["data"] as String)) }
            val layout = (case["layout"] as List<*>).map { it as Long }.toLongArray()
            MappedTable(file, layout).use { table ->
                val out = FloatArray(table.width)
                for ((id, row) in (case["ids"] as List<*>).zip(case["rows"] as List<*>)) {
                    table.readRow((id as Long).toInt(), 1f, out, 0)
                    assertContentEquals((row as List<*>).map { (it as Number).toFloat() }.toFloatArray(), out)
                }
            }
        }
    }

    @Test
    fun `a table larger than its file is refused`() {
        val file = temporary.newFile().also { it.writeBytes(ByteArray(10)) }
        assertFailsWith<EngineException> { MappedTable(file, longArrayOf(100, 8, 8, 0, 0)) }
        assertFailsWith<EngineException> { MappedTable(file, longArrayOf(1, 8, 7, 0, 0)) }
    }

    @Test
    fun `sampling keeps to the best tokens`() {
        val logits = floatArrayOf(1f, 5f, 5f, 4.9f, -2f)
        assertEquals(1, Sampler(Sampling.GREEDY).draw(logits))
        val sampler = Sampler(Sampling(temperature = 1.0, topK = 3, topP = 1.0, seed = 7))
        val drawn = List(300) { sampler.draw(logits) }.groupingBy { it }.eachCount()
        assertEquals(setOf(1, 2, 3), drawn.keys)
        assertTrue(drawn.values.all { it > 60 }, "$drawn")
        val narrow = Sampler(Sampling(temperature = 1.0, topK = 64, topP = 0.1))
        assertEquals(setOf(1), List(50) { narrow.draw(logits) }.toSet())
        val same = Sampler(Sampling(1.0, 3, 1.0, seed = 3)) to Sampler(Sampling(1.0, 3, 1.0, seed = 3))
        assertEquals(List(20) { same.first.draw(logits) }, List(20) { same.second.draw(logits) })
    }
}
