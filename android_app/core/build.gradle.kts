import org.jetbrains.kotlin.gradle.dsl.JvmTarget

plugins {
    alias(libs.plugins.kotlin.jvm)
}

kotlin {
    compilerOptions {
        jvmTarget = JvmTarget.JVM_1_8
        allWarningsAsErrors = true
    }
}

java {
    sourceCompatibility = JavaVersion.VERSION_1_8
    targetCompatibility = JavaVersion.VERSION_1_8
}

dependencies {
    implementation(libs.gson)
    testImplementation(libs.junit)
    testImplementation(libs.kotlin.test.junit)
}

// What the tests of the screens use, too.
kotlin.sourceSets.named("test") { kotlin.srcDir("src/testShared/kotlin") }

// The schema that the compiler publishes travels with the code that checks against it.
tasks.processResources {
    from(rootDir.resolve("../runtime_shims/g3n_runtime/manifest.schema.json"))
}

tasks.test {
    systemProperty("g3n.repository", rootDir.parent)
}
