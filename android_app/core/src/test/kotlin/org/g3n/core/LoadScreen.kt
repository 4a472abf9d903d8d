package org.g3n.core

import org.g3n.core.bundle.Origin
import org.g3n.core.bundle.Progress
import org.g3n.core.ui.Busy
import org.g3n.core.ui.LoadOption
import org.g3n.core.ui.LoadView
import org.g3n.core.ui.Prepared
import java.io.File

/** Notes what the screen that loads a bundle was told to show. */
class LoadScreen : LoadView {
    var bundles: List<File> = emptyList()
    val copying = ArrayList<Progress>()
    val checking = ArrayList<Progress>()
    var prepared: Prepared? = null
    var options: List<LoadOption> = emptyList()
    var busy: Busy? = null
    var cpuOffer: String? = null
    var canResume = false
    var chatsOpened = 0
    var error: Throwable? = null
    var onChecking: () -> Unit = {}
    val origin: Pair<Origin, Boolean>? get() = prepared?.let { it.origin to it.isAccepted }

    override fun showBundles(bundles: List<File>) {
        this.bundles = bundles
    }

    override fun showBusy(busy: Busy?) {
        this.busy = busy
        if (busy is Busy.Copying) copying += busy.progress
        if (busy is Busy.Checking) {
            checking += busy.progress
            onChecking()
        }
    }

    override fun showPrepared(prepared: Prepared?) {
        this.prepared = prepared
        options = prepared?.options.orEmpty()
    }

    override fun showResume(isPossible: Boolean) {
        canResume = isPossible
    }

    override fun openChat() {
        chatsOpened++
    }

    override fun offerCpu(reason: String) {
        cpuOffer = reason
    }

    override fun showError(error: Throwable) {
        this.error = error
    }
}
