package org.g3n.core

import org.g3n.core.bundle.Bundle
import org.g3n.core.bundle.Device
import org.g3n.core.bundle.Runtime
import org.g3n.core.engine.EngineConfig
import org.g3n.core.ui.ChatEnvironment
import org.g3n.core.ui.ChatPresenter
import org.junit.Before
import org.junit.Rule
import org.junit.rules.TemporaryFolder

/** What the tests of [ChatPresenter] share. */
abstract class ChatPresenterTests {
    @get:Rule
    val temporary = TemporaryFolder()

    protected val threads = QueuedThreads()
    protected val store = MemoryStore()
    protected val files = MemoryFiles()
    protected val view = ChatScreen()
    protected lateinit var config: EngineConfig

    @Before
    fun openBundle() {
        val bundle = Bundle.open(BundleMaker(temporary.newFolder("nano")).make())
        config = EngineConfig(bundle, Runtime.LITERT, Device.CPU, threads = 2, cacheDirectory = null)
    }

    protected fun presenter(engine: FakeEngine, maxNewTokens: Int = 100, saveEvery: Int = 2): ChatPresenter {
        engine.initialize(config)
        return chat(engine, config, store, maxNewTokens, saveEvery).also { it.attach(view) }
    }

    protected fun chat(
        engine: FakeEngine,
        config: EngineConfig,
        store: MemoryStore,
        maxNewTokens: Int = 100,
        saveEvery: Int = 2,
    ): ChatPresenter {
        if (engine.config == null) engine.initialize(config)
        val environment = ChatEnvironment(store, files, threads, TickingClock()) { 7L shl 20 }
        return ChatPresenter(engine, config, store.load(), environment, maxNewTokens, saveEvery)
    }

    protected fun ChatPresenter.say(text: String) {
        edit(text)
        send()
    }
}
