"""The terms under which a bundle can be used: they depend on what its weights are, never on what they are called."""

from __future__ import annotations

from collections.abc import Mapping

from g3n_compiler.checkpoint.embedded import is_nano

GEMMA = {
    "name": "Gemma Terms of Use",
    "notice": "Gemma is provided under and subject to the Gemma Terms of Use found at ai.google.dev/gemma/terms",
    "terms": "https://ai.google.dev/gemma/terms",
}
NANO = {
    "name": "Apache-2.0",
    "notice": "Trained by this project on the King James Bible (public domain), WordNet 3.0 (Copyright 2006 by "
    "Princeton University, all rights reserved, https://wordnet.princeton.edu/license-and-commercial-use), handwritten "
    "digits of MNIST (Yann LeCun and Corinna Cortes, CC BY-SA 3.0) and words synthesised by Flite and eSpeak NG.",
    "terms": "https://www.apache.org/licenses/LICENSE-2.0",
}


def license_of(hashes: Mapping[str, str], calibrated_from: Mapping[str, str] | None) -> dict[str, str]:
    """The licence of a bundle.

    Args:
        hashes: hashes of the checkpoint's files, by name.
        calibrated_from: hashes of the checkpoint that a calibrated one was made from.
    """
    return NANO if is_nano(hashes, calibrated_from) else GEMMA
