"""Assemble a bundle: staged beside its destination, described by a manifest, renamed into place when all is proven."""
