package org.g3n.core.bundle

/** A bundle that cannot be used: the message says what was found, what was expected and what to do. */
sealed class BundleException(message: String, cause: Throwable? = null) : Exception(message, cause)

/** The folder has no manifest. */
class NotABundle(message: String) : BundleException(message)

/** The manifest was written by a later version of the compiler. */
class NewerManifest(message: String) : BundleException(message)

/** The manifest is not JSON, is too large, or does not follow the schema. */
class InvalidManifest(message: String, cause: Throwable? = null) : BundleException(message, cause)

/** The manifest names a path that leads out of the bundle's folder. */
class UnsafePath(message: String) : BundleException(message)

/** A file is missing or has another size than the manifest says: a copy was broken off. */
class IncompleteBundle(message: String) : BundleException(message)

/** A file differs from its hash. */
class HashMismatch(message: String) : BundleException(message)

/** The bundle has a signature that is not one of this bundle. */
class InvalidSignature(message: String, cause: Throwable? = null) : BundleException(message, cause)

/** The device's disk cannot hold the bundle. */
class NoSpace(message: String) : BundleException(message)
