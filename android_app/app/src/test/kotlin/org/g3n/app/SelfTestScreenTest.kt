package org.g3n.app

import android.view.View
import org.g3n.app.Screens.app
import org.g3n.app.Screens.bundle
import org.g3n.app.Screens.isShown
import org.g3n.app.Screens.memory
import org.g3n.app.Screens.press
import org.g3n.app.Screens.ready
import org.g3n.app.Screens.started
import org.g3n.app.Screens.text
import org.g3n.app.Screens.turn
import org.g3n.app.Screens.until
import org.g3n.core.bundle.ManifestReader
import org.junit.Before
import org.junit.Test
import org.junit.runner.RunWith
import org.robolectric.Robolectric
import org.robolectric.RobolectricTestRunner
import org.robolectric.android.controller.ActivityController
import org.robolectric.annotation.Config
import java.util.concurrent.Semaphore
import kotlin.test.assertFalse
import kotlin.test.assertTrue

@RunWith(RobolectricTestRunner::class)
@Config(application = TestApplication::class)
class SelfTestScreenTest {
    @Before
    fun set() = memory(8, 6000)

    @Test
    fun `turning keeps the rows and what is running`() {
        val folder = bundle { Screens.accelerated(it) }
        val golden = ManifestReader.read(folder).golden.associate { it.prompt to it.text }
        app.script.answer = { listOf(golden.getValue(it)) }
        app.script.pieces = Semaphore(1)
        val load = ready(folder)
        load.get().press(R.id.self_test)
        val intent = started(SelfTestActivity::class.java)
        load.pause().stop()
        val controller: ActivityController<SelfTestActivity> = Robolectric.buildActivity(SelfTestActivity::class.java, intent).setup()
        controller.get().press(R.id.run)
        until("a row") { controller.get().text(R.id.results).isNotEmpty() }
        val first = controller.get().text(R.id.results)
        controller.turn()
        val turned = controller.get()
        assertTrue(turned.text(R.id.results).startsWith(first))
        assertTrue(turned.isShown(R.id.running))
        assertFalse(turned.view<View>(R.id.run).isEnabled)
        app.script.pieces.release(100)
        until("the end") { turned.view<View>(R.id.run).isEnabled }
        val said = turned.text(R.id.results)
        assertTrue(said.endsWith("CPU against the host: same. Accelerator against the CPU: same."), said)
        controller.turn()
        assertTrue(controller.get().text(R.id.results) == said)
    }
}
