package org.g3n.app

import org.g3n.core.engine.Program
import org.pytorch.executorch.EValue
import org.pytorch.executorch.Module
import org.pytorch.executorch.Tensor

/**
 * An ExecuTorch program through the official Android library.
 *
 * Its `Module` takes no data file, so a program whose weights lie partly in the `.ptd` does not load this way.
 */
class ModuleProgram(path: String, method: String, threads: Int) : Program {
    private val module = translated {
        val loaded = Module.load(path, Module.LOAD_MODE_MMAP, threads)
        try {
            loaded.apply { loadMethod(method) }
        } catch (error: RuntimeException) {
            quietly { loaded.destroy() }
            throw error
        }
    }

    override fun constants(name: String): LongArray = translated {
        val values = module.execute(name)
        LongArray(values.size) { values[it].toInt() }
    }

    override fun logits(method: String, rows: FloatArray, positions: LongArray): FloatArray = translated {
        val count = positions.size.toLong()
        val rowTensor = Tensor.fromBlob(rows, longArrayOf(1, count, rows.size / count))
        val positionTensor = Tensor.fromBlob(positions, longArrayOf(count))
        val output = module.execute(method, EValue.from(rowTensor), EValue.from(positionTensor))[0].toTensor()
        val vocabulary = output.shape().last().toInt()
        val all = output.dataAsFloatArray
        if (all.size == vocabulary) all else all.copyOfRange(all.size - vocabulary, all.size)
    }

    override fun close() = quietly { module.destroy() }
}
