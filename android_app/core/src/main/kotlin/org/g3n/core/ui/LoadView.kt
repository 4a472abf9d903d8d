package org.g3n.core.ui

import org.g3n.core.bundle.Bundle
import org.g3n.core.bundle.BundleSize
import org.g3n.core.bundle.Device
import org.g3n.core.bundle.Origin
import org.g3n.core.bundle.Progress
import org.g3n.core.bundle.Runtime
import org.g3n.core.device.Fit
import java.io.File

/**
 * How a checked bundle may be loaded, one for each runtime.
 *
 * @property sizes those that the engine can run; more than one is a choice.
 * @property size the one that the app would choose; `null` where the bundle names none.
 * @property context tokens that there is room for, which [fit] is judged with.
 */
data class LoadOption(
    val runtime: Runtime,
    val devices: List<Device>,
    val fit: Fit,
    val sizes: List<BundleSize>,
    val size: BundleSize?,
    val context: Int,
)

/** What the user wants to load. */
data class Choice(val runtime: Runtime, val device: Device, val size: String?)

/**
 * A bundle that is whole: what it is and whether it fits.
 *
 * @property options how it may be loaded; the app's own choice comes first.
 * @property origin who made it.
 * @property isAccepted whether the user has accepted the key that signed it.
 * @property wasHashed whether its files were hashed at an earlier time, and have kept their sizes and times since.
 */
data class Prepared(
    val bundle: Bundle,
    val options: List<LoadOption>,
    val choice: Choice,
    val origin: Origin,
    val isAccepted: Boolean,
    val wasHashed: Boolean,
)

/** What the user waits for. */
sealed class Busy {
    data class Copying(val progress: Progress) : Busy()

    data class Checking(val name: String, val progress: Progress) : Busy()

    data class Loading(val runtime: Runtime, val device: Device) : Busy()
}

/** What the screen that loads a bundle can show. */
interface LoadView {
    fun showBundles(bundles: List<File>)

    /** What is going on; `null`: nothing. */
    fun showBusy(busy: Busy?)

    /** The bundle that can be loaded; `null`: none. */
    fun showPrepared(prepared: Prepared?)

    /** Whether a loaded conversation can be gone back to. */
    fun showResume(isPossible: Boolean)

    /** A bundle was loaded. */
    fun openChat()

    /** The accelerator refused the bundle; shown until [LoadPresenter.answerOffer]. */
    fun offerCpu(reason: String)

    /** Shown until [LoadPresenter.errorSeen]. */
    fun showError(error: Throwable)
}
