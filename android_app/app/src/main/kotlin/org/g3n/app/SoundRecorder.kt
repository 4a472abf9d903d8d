package org.g3n.app

import android.media.AudioFormat
import android.media.AudioRecord
import android.media.MediaRecorder
import org.g3n.core.chat.WaveFile
import java.io.File
import java.io.IOException

/** Records what Gemma 3n hears: one channel of 16-bit samples at 16 kHz. The permission should be there already. */
class SoundRecorder(private val file: File, private val onEnd: (File?) -> Unit) {
    @Volatile
    private var isRunning = true

    /** Ends the recording; `onEnd` follows on the recording thread. */
    fun stop() {
        isRunning = false
    }

    /** Starts on a thread of its own and ends by itself after [WaveFile.MAX_SECONDS]. */
    fun start() {
        Thread({ onEnd(recorded()) }, "g3n-record").start()
    }

    /** The file, or `null` where the microphone is taken, not allowed, or gone, or the disk is full. */
    private fun recorded(): File? = try {
        record()
    } catch (_: RuntimeException) {
        null
    } catch (_: IOException) {
        null
    } ?: run {
        file.delete()
        null
    }

    private fun microphone(): AudioRecord? {
        val smallest = AudioRecord.getMinBufferSize(RATE, AudioFormat.CHANNEL_IN_MONO, AudioFormat.ENCODING_PCM_16BIT)
        if (smallest <= 0) return null
        // Caught in the function that asks: lint looks for it nowhere else.
        return try {
            AudioRecord(
                MediaRecorder.AudioSource.VOICE_RECOGNITION, RATE, AudioFormat.CHANNEL_IN_MONO,
                AudioFormat.ENCODING_PCM_16BIT, maxOf(smallest, RATE),
            )
        } catch (_: SecurityException) {
            null
        }
    }

    private fun record(): File? {
        val recorder = microphone() ?: return null
        try {
            if (recorder.state != AudioRecord.STATE_INITIALIZED) return null
            recorder.startRecording()
            val samples = ShortArray(RATE / READS_PER_SECOND)
            WaveFile(file, RATE).use { out ->
                while (isRunning && !out.isFull) {
                    val count = recorder.read(samples, 0, samples.size)
                    if (count <= 0) return null
                    out.write(samples, count)
                }
            }
            return file
        } finally {
            recorder.release()
        }
    }

    private companion object {
        const val RATE = WaveFile.GEMMA_RATE
        const val READS_PER_SECOND = 10
    }
}
