package org.g3n.core.text

/** Tokens that are cut out of a text before anything else, the longest first: turn markers, runs of spaces. */
internal class AddedTokens(ids: Map<String, Int>) {
    private val root = Node()

    init {
        for ((content, id) in ids) {
            var node = root
            for (character in content) node = node.next.getOrPut(character) { Node() }
            node.id = id
        }
    }

    /** Goes through [text] from left to right: [onToken] gets the tokens found, [onRest] what lies between them. */
    fun split(text: String, onToken: (Int) -> Unit, onRest: (String) -> Unit) {
        var restBegin = 0
        var at = 0
        while (at < text.length) {
            val found = longestFrom(text, at)
            if (found == null) {
                at++
                continue
            }
            if (at > restBegin) onRest(text.substring(restBegin, at))
            onToken(found.id)
            at += found.length
            restBegin = at
        }
        if (restBegin < text.length) onRest(text.substring(restBegin))
    }

    private fun longestFrom(text: String, begin: Int): Match? {
        var node = root
        var found: Match? = null
        for (i in begin until text.length) {
            node = node.next[text[i]] ?: break
            if (node.id >= 0) found = Match(node.id, i + 1 - begin)
        }
        return found
    }

    private class Match(val id: Int, val length: Int)

    private class Node {
        val next = HashMap<Char, Node>()
        var id = -1
    }
}
