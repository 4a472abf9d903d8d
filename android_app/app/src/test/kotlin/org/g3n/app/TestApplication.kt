package org.g3n.app

import android.os.Looper
import org.g3n.core.bundle.Device
import org.g3n.core.bundle.Modality
import org.g3n.core.bundle.Runtime
import org.g3n.core.bundle.Sampling
import org.g3n.core.chat.Turn
import org.g3n.core.engine.Answer
import org.g3n.core.engine.Engine
import org.g3n.core.engine.EngineConfig
import org.g3n.core.engine.EngineException
import org.g3n.core.engine.EngineFactory
import org.g3n.core.engine.Finish
import org.g3n.core.engine.Notice
import org.g3n.core.engine.StopSignal
import org.g3n.core.ui.Clock
import java.util.concurrent.Semaphore
import java.util.concurrent.TimeUnit

/** The app with engines that say what a test tells them to. */
open class TestApplication : G3nApplication() {
    val script = Script()
    override var engines: EngineFactory = ScriptedEngines(script)
    override val clock = TenthsOfSeconds()

    /** Whether [occupied], which is slow, was asked on the thread that draws. */
    @Volatile
    var wasAskedWhileDrawing = false

    override fun occupied(): Long {
        if (Looper.myLooper() == Looper.getMainLooper()) wasAskedWhileDrawing = true
        return 123L shl 20
    }
}

/** Moves on by a tenth of a second at each look, so that speeds are the same in every run. */
class TenthsOfSeconds : Clock {
    private var now = 0L

    @Synchronized
    override fun nanos(): Long {
        now += 100_000_000
        return now
    }
}

/** What the engines do; a test sets it before the app calls. */
class Script {
    @Volatile
    var refuses: Set<Device> = emptySet()

    @Volatile
    var takes: Set<Modality> = Modality.entries.toSet()

    @Volatile
    var answer: (String) -> List<String> = { "A river is a large stream of water that flows to the sea.".split(Regex("(?= )")) }

    @Volatile
    var notice: Notice? = null

    @Volatile
    var failsAfter = Int.MAX_VALUE

    @Volatile
    var finish = Finish.END_OF_TURN

    /** A permit for each piece. */
    @Volatile
    var pieces = Semaphore(Int.MAX_VALUE)

    /** A permit for each loading. */
    @Volatile
    var loads = Semaphore(Int.MAX_VALUE)

    @Volatile
    var config: EngineConfig? = null
}

private class ScriptedEngines(private val script: Script) : EngineFactory {
    override val runtimes: Set<Runtime> = Runtime.entries.toSet()

    override fun create(runtime: Runtime): Engine = ScriptedEngine(script)
}

private class ScriptedEngine(private val script: Script) : Engine {
    override var modalities: Set<Modality> = emptySet()
        private set

    override val notice: Notice? get() = script.notice

    override fun initialize(config: EngineConfig) {
        script.loads.acquire()
        if (config.device in script.refuses) {
            throw EngineException(if (config.device == Device.CPU) "not enough memory" else "no OpenCL library on this device")
        }
        script.config = config
        modalities = script.takes
    }

    override fun run(
        turns: List<Turn>,
        sampling: Sampling,
        maxNewTokens: Int,
        stop: StopSignal,
        onPiece: (String) -> Unit,
    ): Answer {
        val pieces = script.answer(turns.last().text)
        for ((i, piece) in pieces.withIndex()) {
            while (!stop.isRequested && !script.pieces.tryAcquire(POLL, TimeUnit.MILLISECONDS)) continue
            if (stop.isRequested) return Answer(Finish.STOPPED, null, i)
            if (i == script.failsAfter) throw EngineException("the driver was lost")
            onPiece(piece)
        }
        return Answer(script.finish, null, pieces.size)
    }

    override fun reset() = Unit

    override fun cleanUp() {
        modalities = emptySet()
    }

    private companion object {
        const val POLL = 5L
    }
}
