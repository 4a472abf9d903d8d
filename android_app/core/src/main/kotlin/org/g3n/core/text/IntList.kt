package org.g3n.core.text

/** A growing list of unboxed integers. */
internal class IntList {
    private var values = IntArray(16)

    var size = 0
        private set

    operator fun get(index: Int): Int = values[index]

    fun add(value: Int) {
        if (size == values.size) values = values.copyOf(size * 2)
        values[size++] = value
    }

    inline fun forEach(action: (Int) -> Unit) {
        for (i in 0 until size) action(get(i))
    }

    fun toArray(): IntArray = values.copyOf(size)
}
