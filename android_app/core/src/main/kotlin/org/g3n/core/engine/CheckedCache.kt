package org.g3n.core.engine

import org.g3n.core.bundle.Device
import org.g3n.core.bundle.Sampling
import org.g3n.core.chat.Role
import org.g3n.core.chat.Turn
import java.io.File
import java.io.IOException

/**
 * Lets [engine] keep a cache between loads only after it has been seen to read it back rightly.
 *
 * Some engines write packed weights at the first launch and read them back as garbage at the second, without an error
 * (`docs/upstream/litert-lm-int4-weight-cache.md`). So one golden prompt is answered at the first launch, and again at
 * the second, by then from the cache: where the answers differ, the cache is deleted, and the bundle runs without one
 * from then on. Of an accelerator no cache is kept. What is kept of the towers is not asked about.
 */
class CheckedCache(private val engine: Engine) : Engine by engine {
    @Volatile
    override var notice: Notice? = null
        private set

    override fun initialize(config: EngineConfig) {
        notice = null
        val kept = config.cacheDirectory?.takeIf { config.device == Device.CPU }
        val prompt = config.bundle.manifest.golden.firstOrNull { it.runtime == config.runtime }?.prompt ?: "Hi"
        if (kept == null) return engine.initialize(config.copy(cacheDirectory = null))
        val folder = File(kept, "${config.runtime.id}-${config.bundle.manifestSha256}-${config.context}")
        val first = File(folder, FIRST_ANSWER)
        val differs = File(folder, DIFFERS)
        when {
            differs.exists() -> withoutCache(config)
            File(folder, CHECKED).exists() -> engine.initialize(config.copy(cacheDirectory = folder))
            first.exists() -> second(config, folder, prompt, first.readText())
            else -> first(config, folder, prompt)
        }
    }

    /** What an interrupted launch may have left half-written is not read. */
    private fun first(config: EngineConfig, folder: File, prompt: String) {
        folder.deleteRecursively()
        if (!folder.mkdirs()) return engine.initialize(config.copy(cacheDirectory = null))
        engine.initialize(config.copy(cacheDirectory = folder))
        write(folder, FIRST_ANSWER, answer(prompt))
    }

    private fun second(config: EngineConfig, folder: File, prompt: String, expected: String) {
        val isSame = try {
            engine.initialize(config.copy(cacheDirectory = folder))
            answer(prompt) == expected
        } catch (_: EngineException) {
            false
        }
        if (isSame) return write(folder, CHECKED, "")
        engine.cleanUp()
        withoutCache(config)
        folder.deleteRecursively()
        if (folder.mkdirs()) write(folder, DIFFERS, "")
    }

    private fun withoutCache(config: EngineConfig) {
        engine.initialize(config.copy(cacheDirectory = null))
        notice = Notice.CACHE_OFF
    }

    private fun answer(prompt: String): String {
        val text = StringBuilder()
        engine.run(listOf(Turn(Role.USER, prompt)), Sampling.GREEDY, TOKENS, StopSignal()) { text.append(it) }
        engine.reset()
        return text.toString()
    }

    /** Written aside and renamed, so that a file is whole where it is there; without room the next launch is a first one. */
    private fun write(folder: File, name: String, text: String) {
        val part = File(folder, "$name.part")
        try {
            part.writeText(text)
            part.renameTo(File(folder, name))
        } catch (_: IOException) {
            part.delete()
        }
    }

    companion object {
        /** Enough to see garbage, and little to wait for. */
        private const val TOKENS = 8

        /** What the first launch answered. */
        const val FIRST_ANSWER = "first-answer"

        /** The second launch answered the same. */
        const val CHECKED = "checked"

        /** The second launch answered otherwise. */
        const val DIFFERS = "differs"
    }
}
