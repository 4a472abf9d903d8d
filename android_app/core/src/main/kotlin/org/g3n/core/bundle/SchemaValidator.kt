package org.g3n.core.bundle

/**
 * Checks a value of [Json] against the part of JSON Schema (draft 2020-12) that the manifest's schema uses.
 *
 * The very schema that the compiler publishes is packed into the app, so both sides refuse the same manifests. A keyword
 * this class does not know is an error of the schema and never passes silently.
 */
class SchemaValidator(private val schema: Map<String, Any?>) {
    /** Where a value breaks the schema, and how. */
    data class Violation(val path: String, val message: String)

    init {
        requireKnownKeywords(schema, "the top")
    }

    /** The first violation in document order, or `null`. */
    fun firstViolation(value: Any?): Violation? = check(value, schema, "")

    private fun check(value: Any?, schema: Map<String, Any?>, path: String): Violation? {
        for ((keyword, argument) in schema) {
            val violation = when (keyword) {
                "type" -> unless(isOfType(value, argument), path) { "is not of type $argument" }
                "const" -> unless(same(value, argument), path) { "is not $argument" }
                "enum" -> unless(list(argument).any { same(value, it) }, path) { "is none of $argument" }
                "minimum" -> unless(value !is Number || compare(value, argument) >= 0, path) { "is under $argument" }
                "maximum" -> unless(value !is Number || compare(value, argument) <= 0, path) { "is over $argument" }
                "minLength" -> unless(value !is String || length(value) >= int(argument), path) { "is too short" }
                "maxLength" -> unless(value !is String || length(value) <= int(argument), path) {
                    "has ${length(value as String)} characters, at most $argument are allowed"
                }
                "pattern" -> unless(value !is String || Regex(argument as String).containsMatchIn(value), path) {
                    "does not match $argument"
                }
                "minItems" -> unless(value !is List<*> || value.size >= int(argument), path) { "has too few items" }
                "maxItems" -> unless(value !is List<*> || value.size <= int(argument), path) {
                    "has ${(value as List<*>).size} items, at most $argument are allowed"
                }
                "minProperties" -> unless(value !is Map<*, *> || value.size >= int(argument), path) { "has too few names" }
                "maxProperties" -> unless(value !is Map<*, *> || value.size <= int(argument), path) { "has too many names" }
                "items" -> (value as? List<*>)?.withIndex()?.firstNotNullOfOrNull { (i, item) ->
                    check(item, objectOf(argument), "$path/$i")
                }
                "required" -> (value as? Map<*, *>)?.let { members ->
                    list(argument).firstOrNull { it !in members }?.let { Violation(path, "lacks ${Json.quoted("$it")}") }
                }
                "properties" -> (value as? Map<*, *>)?.let { members ->
                    objectOf(argument).entries.firstNotNullOfOrNull { (name, inner) ->
                        if (name in members) check(members[name], objectOf(inner), "$path/$name") else null
                    }
                }
                "additionalProperties" -> (value as? Map<*, *>)?.let { additional(it, schema, argument, path) }
                "anyOf" -> unless(list(argument).any { check(value, objectOf(it), path) == null }, path) {
                    "fits none of the allowed forms"
                }
                else -> null
            }
            if (violation != null) return violation
        }
        return null
    }

    private fun additional(members: Map<*, *>, schema: Map<String, Any?>, argument: Any?, path: String): Violation? {
        val known = (schema["properties"] as? Map<*, *>)?.keys.orEmpty()
        for ((name, value) in members) {
            if (name in known) continue
            val shown = Json.quoted("$name")
            if (argument == false) return Violation(path, "has $shown, which the schema does not know")
            if (argument is Map<*, *>) check(value, objectOf(argument), "$path/${"$name".take(80)}")?.let { return it }
        }
        return null
    }

    private fun isOfType(value: Any?, type: Any?): Boolean = when (type) {
        is List<*> -> type.any { isOfType(value, it) }
        "object" -> value is Map<*, *>
        "array" -> value is List<*>
        "string" -> value is String
        "boolean" -> value is Boolean
        "null" -> value == null
        "number" -> value is Number
        "integer" -> value is Long || value is Double && value % 1.0 == 0.0
        else -> error("the schema names the unknown type $type")
    }

    private fun requireKnownKeywords(schema: Map<String, Any?>, where: String) {
        val unknown = schema.keys - KEYWORDS
        require(unknown.isEmpty()) { "the schema uses $unknown at $where, which the app does not know: update it" }
        (schema["properties"] as? Map<*, *>)?.forEach { (name, inner) -> requireKnownKeywords(objectOf(inner), "$name") }
        for (keyword in listOf("items", "additionalProperties")) {
            (schema[keyword] as? Map<*, *>)?.let { requireKnownKeywords(objectOf(it), where) }
        }
        (schema["anyOf"] as? List<*>)?.forEach { requireKnownKeywords(objectOf(it), where) }
    }

    private inline fun unless(fine: Boolean, path: String, message: () -> String): Violation? =
        if (fine) null else Violation(path, message())

    private fun same(a: Any?, b: Any?): Boolean = if (a is Number && b is Number) compare(a, b) == 0 else a == b

    private fun compare(a: Number, b: Any?): Int =
        if (a is Long && b is Long) a.compareTo(b) else a.toDouble().compareTo((b as Number).toDouble())

    private fun length(text: String): Int = text.codePointCount(0, text.length)

    private fun int(argument: Any?): Long = argument as Long

    private fun list(argument: Any?): List<*> = argument as List<*>

    @Suppress("UNCHECKED_CAST")
    private fun objectOf(argument: Any?): Map<String, Any?> = argument as Map<String, Any?>

    private companion object {
        val KEYWORDS = setOf(
            "\$schema", "title", "description", "type", "const", "enum", "minimum", "maximum", "minLength", "maxLength",
            "pattern", "minItems", "maxItems", "minProperties", "maxProperties", "items", "required", "properties",
            "additionalProperties", "anyOf",
        )
    }
}
