"""Assemble a bundle: staged beside its destination, described by a manifest, and renamed into place once it is
verified.
"""
