package org.g3n.core

import org.g3n.core.bundle.Device
import org.g3n.core.bundle.Runtime
import org.g3n.core.device.DeviceMemory
import org.g3n.core.engine.EngineConfig
import org.g3n.core.ui.ChatEnvironment
import org.g3n.core.ui.ChatPresenter
import org.g3n.core.ui.Choice
import org.g3n.core.ui.LoadEnvironment
import org.g3n.core.ui.LoadPresenter
import org.junit.Rule
import org.junit.rules.TemporaryFolder
import java.io.File

/** What the tests of [LoadPresenter] share. */
abstract class LoadPresenterTests {
    @get:Rule
    val temporary = TemporaryFolder()

    protected val threads = QueuedThreads()
    protected val view = LoadScreen()
    protected val store = MemoryStore()
    protected var loaded: EngineConfig? = null
    protected var memory = DeviceMemory(7_400L shl 20, 3_000L shl 20, 100L shl 20)

    protected fun presenter(vararg engines: FakeEngine, runtimes: Set<Runtime> = Runtime.entries.toSet()): LoadPresenter {
        val factory = FakeFactory(*engines, runtimes = runtimes)
        val environment = LoadEnvironment({ memory }, threads, null, 4, MemoryKeys(), MemoryChecked(), store)
        val chat = ChatEnvironment(store, MemoryFiles(), threads, TickingClock())
        return LoadPresenter(listOf(temporary.root), factory, environment) { engine, config, session ->
            loaded = config
            ChatPresenter(engine, config, session, chat)
        }.also { it.attach(view) }
    }

    protected fun LoadPresenter.load(runtime: Runtime, device: Device, size: String? = null) {
        choose(Choice(runtime, device, size))
        load()
    }

    protected fun bundle(name: String = "nano", accelerated: Boolean = false): File =
        BundleMaker(File(temporary.root, name)).make { manifest ->
            if (accelerated) {
                JsonTree.list(manifest["subgraphs"]).forEach { JsonTree.map(it)["device"] = "accelerator" }
            }
        }

    protected fun LoadPresenter.check(directory: File) {
        open(directory)
        threads.run()
    }
}
