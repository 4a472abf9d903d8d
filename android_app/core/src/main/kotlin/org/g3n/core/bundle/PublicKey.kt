package org.g3n.core.bundle

import java.security.GeneralSecurityException
import java.security.KeyFactory
import java.security.MessageDigest
import java.security.spec.X509EncodedKeySpec
import java.security.Signature as PlatformSignature

/** A P-256 key as its SubjectPublicKeyInfo in DER, the one encoding that is accepted. */
class PublicKey private constructor(private val der: ByteArray) {
    /** SHA-256 of the encoding in hexadecimal, in groups that can be read aloud; the compiler's side shows the same. */
    val fingerprint: String =
        HashCheck.hex(MessageDigest.getInstance("SHA-256").digest(der)).chunked(GROUP).joinToString("-")

    /** Whether [signature] (ECDSA with SHA-256, DER) is this key's over [message], by the platform's own cryptography. */
    fun verifies(signature: ByteArray, message: ByteArray): Boolean = try {
        val verifier = PlatformSignature.getInstance("SHA256withECDSA")
        verifier.initVerify(KeyFactory.getInstance("EC").generatePublic(X509EncodedKeySpec(der)))
        verifier.update(message)
        verifier.verify(signature)
    } catch (_: GeneralSecurityException) {
        false // a point that is not on the curve, or a signature that is no pair of numbers
    }

    companion object {
        /** What every P-256 key's encoding starts with (RFC 5480, uncompressed point); 64 bytes of point follow. */
        private val PREFIX = intArrayOf(
            0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01,
            0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00, 0x04,
        ).map { it.toByte() }
        private const val POINT = 64
        private const val GROUP = 8

        /** The key that [der] encodes; raises [InvalidSignature] for any other kind of key or encoding. */
        fun of(der: ByteArray): PublicKey {
            if (der.size != PREFIX.size + POINT || der.take(PREFIX.size) != PREFIX) {
                throw InvalidSignature("the key in ${SignatureCheck.FILE_NAME} is not a public P-256 key")
            }
            return PublicKey(der)
        }
    }
}
