package org.g3n.core.text

/** Tokens that are cut out of a text before anything else, the longest first: turn markers and the like. */
internal class AddedTokens(val ids: Map<String, Int>) {
    /** One found in a text: from [start] up to [end]. */
    data class Match(val start: Int, val end: Int, val id: Int)

    private val root = Node()

    init {
        for ((content, id) in ids) {
            var node = root
            for (character in content) node = node.next.getOrPut(character) { Node() }
            node.id = id
        }
    }

    /** The leftmost match in [text] from [begin] on. */
    fun next(text: String, begin: Int): Match? {
        for (start in begin until text.length) {
            var node = root
            var found: Match? = null
            for (i in start until text.length) {
                node = node.next[text[i]] ?: break
                if (node.id >= 0) found = Match(start, i + 1, node.id)
            }
            if (found != null) return found
        }
        return null
    }

    private class Node {
        val next = HashMap<Char, Node>()
        var id = -1
    }
}
