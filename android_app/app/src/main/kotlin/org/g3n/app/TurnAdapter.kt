package org.g3n.app

import android.app.Activity
import android.view.View
import android.view.ViewGroup
import android.widget.BaseAdapter
import android.widget.TextView
import org.g3n.core.chat.Role
import org.g3n.core.chat.Turn

/** The conversation as rows: who speaks, and what. A row is one thing for TalkBack to read. */
class TurnAdapter(private val activity: Activity) : BaseAdapter() {
    private var turns: List<Turn> = emptyList()
    private var isRunning = false

    /** The last of [turns] is still coming while [isRunning]. */
    fun show(turns: List<Turn>, isRunning: Boolean) {
        this.turns = turns
        this.isRunning = isRunning
        notifyDataSetChanged()
    }

    /** Replaces the last turn's text. */
    fun grow(text: String) {
        if (turns.isEmpty()) return
        show(turns.dropLast(1) + turns.last().copy(text = text), isRunning)
    }

    override fun getCount(): Int = turns.size

    override fun getItem(position: Int): Turn = turns[position]

    override fun getItemId(position: Int): Long = position.toLong()

    override fun getView(position: Int, convertView: View?, parent: ViewGroup): View {
        val row = convertView ?: activity.layoutInflater.inflate(R.layout.item_turn, parent, false)
        val turn = turns[position]
        val name = activity.getString(if (turn.role == Role.MODEL) R.string.chat_model else R.string.chat_you)
        val isComing = isRunning && position == turns.size - 1
        val speaker = if (turn.isPartial && !isComing && turn.text.isNotEmpty()) activity.getString(R.string.chat_partial, name) else name
        (row.findViewById(R.id.speaker) as TextView).text = speaker
        (row.findViewById(R.id.text) as TextView).text = text(turn)
        return row
    }

    private fun text(turn: Turn): String {
        if (turn.attachments.isEmpty()) return turn.text
        val count = turn.attachments.size
        val attached = activity.resources.getQuantityString(R.plurals.chat_attached, count, count)
        return if (turn.text.isEmpty()) attached else "$attached\n${turn.text}"
    }
}
