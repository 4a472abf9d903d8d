package org.g3n.core.bundle

import org.g3n.core.chat.ChatTemplate
import org.g3n.core.chat.TurnTexts

/** Which engine family a part of a bundle is for. */
enum class Runtime(val id: String) {
    LITERT("litert"),
    EXECUTORCH("executorch"),
    ;

    companion object {
        fun of(id: String): Runtime = entries.firstOrNull { it.id == id } ?: throw InvalidManifest("unknown runtime $id")
    }
}

/** Where a subgraph runs. */
enum class Device(val id: String) {
    CPU("cpu"),
    ACCELERATOR("accelerator"),
}

/** What a model takes besides text. */
enum class Modality(val id: String) {
    TEXT("text"),
    VISION("vision"),
    AUDIO("audio"),
}

/** A file of the bundle; [path] is relative and [sha256] lower-case hexadecimal. */
data class BundleFile(val path: String, val role: String, val sha256: String, val bytes: Long)

/** How a part occupies memory. Mapped pages can be dropped by the system, the others cannot. */
enum class MemoryKind(val id: String) {
    MAPPED("mmapped"),
    RESIDENT("resident"),
    KV("kv"),
    WORKSPACE("workspace"),

    /** A tower, loaded with the first picture or sound. */
    ON_DEMAND("on demand"),
}

/** One line of the memory ledger, in bytes. */
data class MemoryPart(val name: String, val bytes: Long, val kind: MemoryKind)

/** What a runtime needs by phase, in bytes, and the smallest device memory that holds it. */
data class MemoryLedger(
    val parts: List<MemoryPart>,
    val loadPeak: Long,
    val prefillPeak: Long,
    val decodePeak: Long,
    val leastDeviceRam: Long,
) {
    val peak: Long get() = maxOf(loadPeak, prefillPeak, decodePeak)
}

/** The KV cache of the whole context: [bytes] in all, [full] and [sliding] the positions of its layers of each kind. */
data class CacheShape(val bytes: Long, val full: List<Int>, val sliding: List<Int>)

/** How tokens are drawn; temperature 0 is greedy. */
data class Sampling(val temperature: Double, val topK: Int, val topP: Double, val seed: Int = 0) {
    companion object {
        val GREEDY = Sampling(temperature = 0.0, topK = 1, topP = 1.0)
    }
}

/** A prompt that was run when the bundle was compiled, and what [runtime] answered greedily on the host. */
data class GoldenText(val runtime: Runtime, val prompt: String, val text: String)

/** One of the sizes that an elastic bundle can run at. */
data class BundleSize(val name: String, val leastDeviceRam: Long)

/** The parts of `manifest.json` that the app uses. */
data class Manifest(
    val name: String,
    val modelSize: String,
    val modalities: Set<Modality>,
    val parameters: Long,
    val recipe: String,
    val context: Int,
    val longestPrefill: Int,
    val cache: CacheShape,
    val files: List<BundleFile>,
    val runtimes: List<Runtime>,
    val acceleratedRuntimes: Set<Runtime>,
    val memory: Map<Runtime, MemoryLedger>,
    val bosId: Int,
    val stopIds: Set<Int>,
    val stopTexts: Set<String>,
    val turnTexts: TurnTexts?,
    val sampling: Sampling,
    val golden: List<GoldenText>,
    val sizes: List<BundleSize>,
    val parityPassed: Boolean,
    val licenseName: String,
    val licenseNotice: String,
) {
    /** The chat template, for engines that take a plain prompt; raises [InvalidManifest] if it is not such texts. */
    fun chatTemplate(): ChatTemplate = ChatTemplate(
        turnTexts ?: throw InvalidManifest("the chat template of $name needs Jinja, which only the LiteRT engine has"),
    )

    /** Bytes of the caches that grow with the context. */
    val fullCacheBytes: Long
        get() = cache.full.sum().toLong().let { full -> if (full == 0L) 0 else cache.bytes / (full + cache.sliding.sum()) * full }

    /** Whether the caches can be made shorter at load: within the sliding window they have one length only. */
    val canBeShortened: Boolean get() = cache.sliding.all { it < context } && cache.sliding.isNotEmpty()

    /** [tokens] rounded up to whole chunks of a prompt: LiteRT-LM refuses one that is padded past the end of its caches. */
    fun wholeChunks(tokens: Int): Int = (tokens + longestPrefill - 1) / longestPrefill * longestPrefill

    val totalBytes: Long get() = files.sumOf { it.bytes }

    /** The one file with [role]; raises [IncompleteBundle] if the bundle has none. */
    fun file(role: String): BundleFile = files.firstOrNull { it.role == role }
        ?: throw IncompleteBundle("$name has no $role: compile it for that runtime")

    /** Raises [InvalidManifest] if the ledger lacks [runtime]. */
    fun ledger(runtime: Runtime): MemoryLedger =
        memory[runtime] ?: throw InvalidManifest("the memory ledger says nothing about ${runtime.id}")
}
