package org.g3n.core

import org.g3n.core.bundle.Bundle
import org.g3n.core.bundle.Device
import org.g3n.core.bundle.Modality
import org.g3n.core.bundle.Runtime
import org.g3n.core.bundle.Sampling
import org.g3n.core.chat.Attachment
import org.g3n.core.chat.AttachmentFiles
import org.g3n.core.chat.Turn
import org.g3n.core.engine.Answer
import org.g3n.core.engine.Engine
import org.g3n.core.engine.EngineConfig
import org.g3n.core.engine.EngineException
import org.g3n.core.engine.EngineFactory
import org.g3n.core.engine.Finish
import org.g3n.core.engine.Notice
import org.g3n.core.engine.StopSignal
import org.g3n.core.session.AcceptedKeys
import org.g3n.core.session.CheckedFiles
import org.g3n.core.session.Session
import org.g3n.core.session.SessionJson
import org.g3n.core.session.SessionStore
import org.g3n.core.ui.Clock
import org.g3n.core.ui.Lane
import org.g3n.core.ui.Threads

/** Queues work until a test lets it run, so that what happens in between can be seen. */
class QueuedThreads : Threads {
    private val waiting = ArrayDeque<Pair<Lane, () -> Unit>>()

    override fun background(lane: Lane, work: () -> Unit) {
        waiting.addLast(lane to work)
    }

    override fun main(work: () -> Unit) = work()

    /** Runs all that waits in [lanes], and what that adds. */
    fun run(vararg lanes: Lane = Lane.entries.toTypedArray()) {
        while (true) {
            val next = waiting.firstOrNull { it.first in lanes } ?: return
            waiting.remove(next)
            next.second()
        }
    }
}

/** Ticks a quarter of a second at each look. */
class TickingClock : Clock {
    private var now = 0L

    override fun nanos(): Long {
        now += 250_000_000
        return now
    }
}

/**
 * An engine that says a fixed answer piece by piece, and misbehaves when told to.
 *
 * @param answers by prompt; the last user's text selects one.
 */
class FakeEngine(
    private val answers: Map<String, List<String>> = emptyMap(),
    private val refuses: Set<Device> = emptySet(),
    private val failsAfter: Int = Int.MAX_VALUE,
    private val takes: Set<Modality> = Modality.entries.toSet(),
    private val failure: Exception = EngineException("the driver was lost"),
) : Engine {
    override val modalities: Set<Modality> get() = if (config == null) emptySet() else takes
    val seen = ArrayList<List<Turn>>()
    val samplings = ArrayList<Sampling>()
    var config: EngineConfig? = null
    var resets = 0
    var cleanUps = 0
    override var notice: Notice? = null
    var beforePiece: (Int) -> Unit = {}

    override fun initialize(config: EngineConfig) {
        if (config.device in refuses) throw EngineException("no OpenCL library on this device")
        this.config = config
    }

    override fun run(
        turns: List<Turn>,
        sampling: Sampling,
        maxNewTokens: Int,
        stop: StopSignal,
        onPiece: (String) -> Unit,
    ): Answer {
        checkNotNull(config) { "run before initialize" }
        seen += turns
        samplings += sampling
        val pieces = answers[turns.last().text] ?: listOf("I", " do", " not", " know")
        for ((i, piece) in pieces.withIndex()) {
            beforePiece(i)
            if (stop.isRequested) return Answer(Finish.STOPPED, null, i)
            if (i == failsAfter) throw failure
            if (i == maxNewTokens) return Answer(Finish.LENGTH, null, i)
            onPiece(piece)
        }
        return Answer(Finish.END_OF_TURN, null, pieces.size)
    }

    override fun reset() {
        resets++
    }

    override fun cleanUp() {
        cleanUps++
        config = null
    }
}

/** Makes [engines] one after the other. */
class FakeFactory(
    private vararg val engines: FakeEngine,
    override val runtimes: Set<Runtime> = Runtime.entries.toSet(),
) : EngineFactory {
    private var next = 0

    override fun create(runtime: Runtime): FakeEngine = engines[minOf(next++, engines.size - 1)]
}

/** Keeps a session as its JSON, as the file would. */
class MemoryStore(var json: String? = null) : SessionStore {
    var saves = 0
    var loads = 0

    override fun save(session: Session) {
        saves++
        json = SessionJson.write(session)
    }

    override fun load(): Session? {
        loads++
        return json?.let(SessionJson::read)
    }
}

/** Keeps in memory which bundles were hashed. */
class MemoryChecked : CheckedFiles {
    private val stamps = HashSet<String>()

    override fun state(bundle: Bundle): String = bundle.directory.path

    override fun isKnown(state: String): Boolean = state in stamps

    override fun remember(bundle: Bundle, state: String) {
        stamps += state
    }
}

/** Notes which files a conversation gives up. */
class MemoryFiles : AttachmentFiles {
    val deleted = ArrayList<String>()
    var kept: Set<String>? = null

    override fun delete(attachments: Collection<Attachment>) {
        deleted += attachments.map { it.path }
    }

    override fun keepOnly(paths: Set<String>) {
        kept = paths
    }
}

/** Keeps accepted keys in memory. */
class MemoryKeys : AcceptedKeys {
    private val accepted = HashSet<String>()

    override fun contains(fingerprint: String): Boolean = fingerprint in accepted

    override fun add(fingerprint: String) {
        accepted += fingerprint
    }
}
