"""Inputs of the sound encoder by which it sees where a sound begins. They need no engine to be known."""

ENDED = "prev_mask"
"""``[1, 1]`` bool, true if the sound of the call before has ended; so too before the first call."""
OVERLAPPED = "prev_overlap"
"""``[1, hops, 160]`` float32, the last hops of the call before."""
