package org.g3n.core.bundle

import org.g3n.core.chat.TurnTexts

/** Turns a manifest that follows the schema into a [Manifest]; what the schema promises is taken as given. */
internal class ManifestMapper(private val root: Map<*, *>) {
    fun manifest(): Manifest {
        val model = root.at("model")
        val subgraphs = root.objects("subgraphs")
        return Manifest(
            name = root.text("name"),
            modelSize = model.text("size"),
            modalities = model.strings("modalities").mapTo(LinkedHashSet()) { id -> Modality.entries.first { it.id == id } },
            parameters = model.long("parameters"),
            recipe = root.at("recipe").text("name"),
            context = root.int("context"),
            files = root.objects("files").map(::file),
            longestPrefill = root.list("prefill_lengths").maxOf { exactInt(it, "prefill_lengths") },
            cache = cache(root.at("kv")),
            runtimes = subgraphs.map { Runtime.of(it.text("runtime")) }.distinct(),
            acceleratedRuntimes = subgraphs.filter { it.text("device") == Device.ACCELERATOR.id }
                .mapTo(LinkedHashSet()) { Runtime.of(it.text("runtime")) },
            memory = root.at("memory").entries.associate { (id, ledger) -> Runtime.of(id as String) to ledger(ledger as Map<*, *>) },
            bosId = root.at("tokenizer").int("bos_id"),
            stopIds = root.at("tokenizer").list("stop_ids").mapTo(LinkedHashSet()) { exactInt(it, "stop_ids") },
            stopTexts = root.at("tokenizer").strings("stop_texts").toSet(),
            turnTexts = (root.at("template")["turns"] as Map<*, *>?)?.let(::turnTexts),
            sampling = sampling(root.at("sampler")),
            golden = root.at("parity").objects("texts").map(::golden),
            sizes = root.objects("sizes").map { BundleSize(it.text("name"), it.long("least_device_ram")) },
            parityPassed = root.at("parity")["passed"] as Boolean,
            licenseName = root.at("license").text("name"),
            licenseNotice = root.at("license").text("notice"),
        )
    }

    private fun turnTexts(entry: Map<*, *>): TurnTexts {
        val system = (entry["system"] as List<*>?)?.map { it as String }
        return TurnTexts(
            first = entry.text("first"),
            system = system?.let { (before, after) -> before to after },
            answer = entry.text("answer"),
            next = entry.text("next"),
            generation = entry.text("generation"),
            stripUser = entry["strip_user"] as Boolean,
            stripAnswer = entry["strip_answer"] as Boolean,
            stripSystem = entry["strip_system"] as Boolean,
        )
    }

    private fun cache(entry: Map<*, *>): CacheShape {
        val layers = entry.objects("layers").groupBy({ it.text("kind") }, { it.int("length") })
        return CacheShape(entry.long("bytes"), layers["full"].orEmpty(), layers["sliding"].orEmpty())
    }

    private fun file(entry: Map<*, *>): BundleFile =
        BundleFile(SafePath.check(entry.text("path")), entry.text("role"), entry.text("sha256"), entry.long("bytes"))

    private fun ledger(entry: Map<*, *>): MemoryLedger {
        val peak = entry.at("peak")
        return MemoryLedger(
            entry.objects("parts").map { part ->
                val kind = MemoryKind.entries.first { it.id == part.text("kind") }
                MemoryPart(part.text("name"), part.long("bytes"), kind)
            },
            peak.long("load"),
            peak.long("prefill"),
            peak.long("decode"),
            entry.long("least_device_ram"),
        )
    }

    private fun sampling(entry: Map<*, *>): Sampling {
        val temperature = entry.number("temperature")
        val topP = entry.number("top_p")
        if (temperature < 0 || topP < 0 || topP > 1) {
            throw InvalidManifest("the sampler has temperature $temperature and top_p $topP: they cannot be used")
        }
        return Sampling(temperature, maxOf(1, entry.int("top_k")), topP)
    }

    private fun golden(entry: Map<*, *>): GoldenText =
        GoldenText(Runtime.of(entry.text("runtime")), entry.text("prompt"), entry.text("text"))

    private fun Map<*, *>.at(name: String): Map<*, *> = this[name] as Map<*, *>

    private fun Map<*, *>.list(name: String): List<*> = this[name] as? List<*> ?: emptyList<Any?>()

    private fun Map<*, *>.objects(name: String): List<Map<*, *>> = list(name).map { it as Map<*, *> }

    private fun Map<*, *>.strings(name: String): List<String> = list(name).map { it as String }

    private fun Map<*, *>.text(name: String): String = this[name] as String

    private fun Map<*, *>.number(name: String): Double = (this[name] as Number).toDouble()

    private fun Map<*, *>.long(name: String): Long = when (val value = this[name]) {
        is Long -> value
        else -> (value as Double).takeIf { it < MAX_EXACT }?.toLong() ?: throw InvalidManifest("$name is too large: $value")
    }

    private fun Map<*, *>.int(name: String): Int = exactInt(long(name), name)

    private fun exactInt(value: Any?, name: String): Int {
        val long = (value as Number).toLong()
        if (long > Int.MAX_VALUE) throw InvalidManifest("$name is $long, more than ${Int.MAX_VALUE}")
        return long.toInt()
    }

    private companion object {
        const val MAX_EXACT = 9.0e15
    }
}
