"""Files that were damaged: some bytes of a real one flipped, cut out, repeated or put in."""

from __future__ import annotations

from hypothesis import strategies as st

MOST = 4
"""Changes of one file."""


@st.composite
def mutated(draw: st.DrawFn, content: bytes) -> bytes:
    """``content`` after one to :data:`MOST` changes."""
    data = bytearray(content)
    for _ in range(draw(st.integers(1, MOST))):
        # Half of the changes fall where headers are.
        last = len(data) if draw(st.booleans()) else min(len(data), 64)
        at = draw(st.integers(0, last))
        match draw(st.sampled_from(["set", "cut", "insert", "repeat", "number", "end"])):
            case "set":
                data[at : at + 1] = draw(st.binary(min_size=1, max_size=1))
            case "cut":
                del data[at : at + draw(st.integers(1, 32))]
            case "insert":
                data[at:at] = draw(st.binary(min_size=1, max_size=16))
            case "repeat":
                data[at:at] = data[at : at + draw(st.integers(1, 64))]
            case "number":
                value = draw(st.sampled_from([0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF]))
                data[at : at + 4] = value.to_bytes(4, draw(st.sampled_from(["little", "big"])))
            case "end":
                del data[at:]
    return bytes(data)
