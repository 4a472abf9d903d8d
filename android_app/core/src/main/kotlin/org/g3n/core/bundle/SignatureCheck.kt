package org.g3n.core.bundle

import java.io.ByteArrayOutputStream
import java.io.File
import java.io.InputStream

/** Who made a bundle, as far as its signature tells. */
sealed class Origin {
    /** The bundle has no signature. */
    object NotSigned : Origin()

    /** It has one whose key is not at hand. */
    object NotChecked : Origin()

    /** The key with this [fingerprint] signed the manifest and every hash in it. */
    data class Signed(val fingerprint: String) : Origin()
}

/**
 * Checks `manifest.sig` with the platform's own cryptography: a DSSE envelope around an in-toto statement, as OpenSSF
 * model signing 1.0 writes them. `g3n_runtime/signature.py` is the other side of it.
 */
object SignatureCheck {
    const val FILE_NAME = "manifest.sig"
    private const val MAX_BYTES = 1 shl 20
    private const val READ_AT_ONCE = 1 shl 16
    private const val MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
    private const val PAYLOAD_TYPE = "application/vnd.in-toto+json"
    private const val STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
    private const val PREDICATE_TYPE = "https://model_signing/signature/v1.0"
    private const val AGAIN = "fetch the bundle again from who made it"

    /**
     * Who signed [bundle]; that its files have the hashes of its manifest is up to [HashCheck].
     *
     * Raises [InvalidSignature] when there is a signature and it is not one of this bundle.
     */
    fun run(bundle: Bundle): Origin {
        val file = SafePath.resolve(bundle.directory, FILE_NAME)
        if (!file.exists()) return Origin.NotSigned
        if (!file.isFile) throw InvalidSignature("$FILE_NAME is not a file: $AGAIN")
        val tree = parse(file.inputStream().use(::bytes))
        expect(tree, "mediaType", MEDIA_TYPE)
        val envelope = member<Map<*, *>>(tree, "dsseEnvelope")
        expect(envelope, "payloadType", PAYLOAD_TYPE)
        val signature = member<List<*>>(envelope, "signatures").singleOrNull() as? Map<*, *>
            ?: throw InvalidSignature("$FILE_NAME has not exactly one signature: $AGAIN")
        val identifier = member<Map<*, *>>(member(tree, "verificationMaterial"), "publicKey")
        val payload = decoded(envelope, "payload")
        val value = decoded(signature, "sig")
        if ("rawBytes" !in identifier) return Origin.NotChecked
        val key = PublicKey.of(decoded(identifier, "rawBytes"))
        if (!key.verifies(value, preauthentication(payload))) {
            throw InvalidSignature("$FILE_NAME is not a signature of the key ${key.fingerprint}: $AGAIN")
        }
        compare(bundle, digests(parse(payload)))
        return Origin.Signed(key.fingerprint)
    }

    /** All of [stream], a signature not yet looked at; raises [InvalidSignature] when it is too long for one. */
    fun bytes(stream: InputStream): ByteArray {
        val out = ByteArrayOutputStream()
        val buffer = ByteArray(READ_AT_ONCE)
        while (true) {
            val count = stream.read(buffer)
            if (count < 0) return out.toByteArray()
            if (out.size() + count > MAX_BYTES) throw InvalidSignature("$FILE_NAME has more than $MAX_BYTES bytes")
            out.write(buffer, 0, count)
        }
    }

    /** What is signed: DSSE's pre-authentication encoding of [payload], which names its type and length. */
    private fun preauthentication(payload: ByteArray): ByteArray =
        "DSSEv1 ${PAYLOAD_TYPE.length} $PAYLOAD_TYPE ${payload.size} ".encodeToByteArray() + payload

    /** The signed hashes by file. */
    private fun digests(statement: Map<*, *>): Map<String, String> {
        expect(statement, "_type", STATEMENT_TYPE)
        expect(statement, "predicateType", PREDICATE_TYPE)
        val predicate = member<Map<*, *>>(statement, "predicate")
        val serialization = member<Map<*, *>>(predicate, "serialization")
        expect(serialization, "method", "files")
        expect(serialization, "hash_type", "sha256")
        val out = HashMap<String, String>()
        for (resource in member<List<*>>(predicate, "resources")) {
            if (resource !is Map<*, *>) throw InvalidSignature("$FILE_NAME lists what is no file: $AGAIN")
            expect(resource, "algorithm", "sha256")
            val name = member<String>(resource, "name")
            if (out.put(name, member(resource, "digest")) != null) {
                throw InvalidSignature("$FILE_NAME lists ${Json.quoted(name)} twice: $AGAIN")
            }
        }
        return out
    }

    private fun compare(bundle: Bundle, signed: Map<String, String>) {
        if (signed[ManifestReader.FILE_NAME] != bundle.manifestSha256) {
            throw InvalidSignature("the manifest was changed, or the signature is another bundle's: $AGAIN")
        }
        for (entry in bundle.manifest.files) {
            if (signed[entry.path] != entry.sha256) {
                throw InvalidSignature("${Json.quoted(entry.path)} is not among the files that were signed: $AGAIN")
            }
        }
    }

    private fun parse(bytes: ByteArray): Map<*, *> = try {
        Json.parse(ManifestReader.decode(bytes)) as? Map<*, *>
    } catch (error: InvalidManifest) {
        throw InvalidSignature("$FILE_NAME cannot be read (${error.message}): $AGAIN", error)
    } ?: throw InvalidSignature("$FILE_NAME holds no JSON object: $AGAIN")

    private inline fun <reified T> member(tree: Map<*, *>, name: String): T =
        tree[name] as? T ?: throw InvalidSignature("$FILE_NAME has no usable $name: $AGAIN")

    private fun expect(tree: Map<*, *>, name: String, value: String) {
        val found = member<String>(tree, name)
        if (found != value) throw InvalidSignature("$FILE_NAME has the $name ${Json.quoted(found)}, expected $value: $AGAIN")
    }

    private fun decoded(tree: Map<*, *>, name: String): ByteArray =
        Base64.decode(member(tree, name)) ?: throw InvalidSignature("$FILE_NAME has a $name that is not base64: $AGAIN")
}
