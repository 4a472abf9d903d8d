package org.g3n.core

import org.g3n.core.bundle.Bundle
import org.g3n.core.bundle.Device
import org.g3n.core.bundle.Runtime
import org.g3n.core.bundle.Sampling
import org.g3n.core.chat.Attachment
import org.g3n.core.chat.Role
import org.g3n.core.chat.Turn
import org.g3n.core.engine.ContextFull
import org.g3n.core.engine.DecoderEngine
import org.g3n.core.engine.EngineConfig
import org.g3n.core.engine.EngineException
import org.g3n.core.engine.Finish
import org.g3n.core.engine.StopSignal
import org.g3n.core.engine.Program
import org.g3n.core.text.GemmaTokenizer
import org.junit.Before
import org.junit.Rule
import org.junit.Test
import org.junit.rules.TemporaryFolder
import java.io.File
import java.nio.ByteBuffer
import java.nio.ByteOrder
import kotlin.test.assertEquals
import kotlin.test.assertFailsWith
import kotlin.test.assertTrue

/** The loop over a program that says what it is told; real inference is in the end-to-end test. */
class DecoderEngineTest {
    @get:Rule
    val temporary = TemporaryFolder()

    private val tokenizer = GemmaTokenizer.load(Golden.repositoryFile("compiler/g3n_compiler/nano/checkpoint/tokenizer.json"))
    private lateinit var config: EngineConfig
    private lateinit var program: ScriptedProgram
    private lateinit var engine: DecoderEngine

    @Before
    fun load() {
        val folder = BundleMaker(temporary.newFolder("nano")).make { manifest ->
            val files = JsonTree.list(manifest["files"]).map { JsonTree.map(it) }
            fun replace(role: String, bytes: ByteArray) {
                val entry = files.single { it["role"] == role }
                File(temporary.root, "nano/${entry["path"]}").writeBytes(bytes)
                entry["bytes"] = bytes.size.toLong()
                entry["sha256"] = Golden.sha256(bytes)
            }
            replace("tokenizer_json", Golden.repositoryFile("compiler/g3n_compiler/nano/checkpoint/tokenizer.json").readBytes())
            replace("executorch_tables", table())
        }
        config = EngineConfig(Bundle.open(folder), Runtime.EXECUTORCH, Device.CPU, 2, null)
        program = ScriptedProgram(tokenizer.encode("A dog is a dog.") + 106)
        engine = DecoderEngine { _, _, threads -> program.also { it.threads = threads } }
        engine.initialize(config)
    }

    /** Two tables of one float a row: the row of a token is its id. */
    private fun table(): ByteArray {
        val out = ByteBuffer.allocate(VOCABULARY * Float.SIZE_BYTES).order(ByteOrder.LITTLE_ENDIAN)
        repeat(VOCABULARY) { out.putFloat(it.toFloat()) }
        return out.array()
    }

    private val stop = StopSignal()

    private fun ask(vararg turns: Turn, maxNewTokens: Int = 100, onPiece: (String) -> Unit = {}) =
        engine.run(turns.toList(), Sampling.GREEDY, maxNewTokens, stop, onPiece)

    private fun user(text: String) = Turn(Role.USER, text)

    @Test
    fun `the prompt goes in by chunks and the answer comes out by pieces`() {
        val pieces = ArrayList<String>()
        val answer = ask(user("What is a dog?")) { pieces += it }
        assertEquals("A dog is a dog.", pieces.joinToString(""))
        assertEquals(Finish.END_OF_TURN, answer.finish)
        assertEquals(2, program.threads)
        assertEquals(2, program.fed[0], "bos comes first")
        assertEquals(answer.promptTokens!! + answer.newTokens!!, program.fed.size)
        assertTrue(program.calls.max() == CHUNK)
        assertEquals(program.fed.indices.map { it.toLong() }, program.positions)
    }

    @Test
    fun `a second turn feeds only what is new`() {
        ask(user("What is a dog?"))
        val before = program.fed.size
        program.rewind()
        ask(user("What is a dog?"), Turn(Role.MODEL, "A dog is a dog."), user("and?"))
        val rendered = "<end_of_turn>\n<start_of_turn>user\nand?<end_of_turn>\n<start_of_turn>model\n"
        val added = tokenizer.encode(rendered).toList() + tokenizer.encode("A dog is a dog.").toList()
        assertEquals(added, program.fed.drop(before))
        assertEquals(program.fed.indices.map { it.toLong() }, program.positions)
    }

    @Test
    fun `another conversation starts at the first position`() {
        ask(user("What is a dog?"))
        val before = program.fed.size
        program.rewind()
        ask(user("What is a cat?"))
        assertEquals(0L, program.positions[before])
        program.rewind()
        engine.reset()
        val again = program.fed.size
        ask(user("What is a cat?"))
        assertEquals(0L, program.positions[again])
    }

    @Test
    fun `an answer ends at the limit when stopped or at the context`() {
        assertEquals(Finish.LENGTH, ask(user("a"), maxNewTokens = 3).finish)
        program.rewind()
        assertEquals(Finish.STOPPED, ask(user("b")) { stop.request() }.finish)
        val before = program.fed.size
        assertEquals(Finish.STOPPED, ask(user("c")).finish, "stopped before it began")
        assertEquals(before, program.fed.size)
    }

    @Test
    fun `a full context is told`() {
        program.endless()
        assertEquals(Finish.CONTEXT_FULL, ask(user("c"), maxNewTokens = 1000).finish)
        assertFailsWith<ContextFull> { ask(user("many words ".repeat(40))) }
    }

    @Test
    fun `what it cannot do is refused`() {
        assertFailsWith<EngineException> { ask(Turn(Role.USER, "x", listOf(Attachment(Attachment.Kind.IMAGE, "a")))) }
        assertFailsWith<EngineException> { engine.initialize(config.copy(size = "half")) }
        assertTrue(program.isClosed)
        assertFailsWith<EngineException> { ask(user("a")) }
    }

    @Test
    fun `a program whose tables do not fit is closed again`() {
        program.tableRows = VOCABULARY * 2L
        assertFailsWith<EngineException> { engine.initialize(config) }
        assertTrue(program.isClosed)
    }

    private class ScriptedProgram(private val script: IntArray) : Program {
        val fed = ArrayList<Int>()
        val positions = ArrayList<Long>()
        val calls = ArrayList<Int>()
        var threads = 0
        var isClosed = false
        var tableRows = VOCABULARY.toLong()
        private var said = 0
        private var isEndless = false

        fun rewind() {
            said = 0
        }

        fun endless() {
            isEndless = true
        }

        override fun constants(name: String): LongArray = when (name) {
            "get_max_seq_len" -> longArrayOf(CHUNK.toLong())
            "get_max_context_len" -> longArrayOf(64)
            else -> longArrayOf(tableRows, 1, 32, 0, 0)
        }

        override fun logits(method: String, rows: FloatArray, positions: LongArray): FloatArray {
            assertEquals("text_decoder", method)
            assertEquals(2 * positions.size, rows.size)
            for (i in positions.indices) {
                assertEquals(rows[2 * i], rows[2 * i + 1], "both tables are read at the same token")
                fed += rows[2 * i].toInt()
            }
            this.positions += positions.toList()
            calls += positions.size
            val last = rows[rows.size - 2].toInt()
            if (said > 0 && script[said - 1] != last && !isEndless) said = 0
            val token = if (isEndless) 300 else script[said++]
            return FloatArray(VOCABULARY).also { it[token] = 1f }
        }

        override fun close() {
            isClosed = true
        }
    }

    private companion object {
        const val VOCABULARY = 4352
        const val CHUNK = 5
    }
}
