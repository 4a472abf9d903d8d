# Sourced by the build scripts: where the Kotlin compiler and the libraries are, and how sources become a jar.
KOTLIN="$PARTS/kotlin-compiler"
KOTLIN_STDLIB="$KOTLIN/lib/kotlin-stdlib.jar"
GSON=/usr/share/java/gson.jar
TEST_LIBRARIES="$KOTLIN/lib/kotlin-test.jar:$KOTLIN/lib/kotlin-test-junit.jar:/usr/share/java/junit4.jar:/usr/share/java/hamcrest.jar"

# compile JAR CLASSPATH FOLDER...: skipped while the jar is newer than its sources.
compile() {
    local jar=$1 classpath=$2
    shift 2
    if [ -e "$jar" ] && [ -z "$(find "$@" -name '*.kt' -newer "$jar" -print -quit)" ]; then return; fi
    # The npm package's kotlinc has no execute bit and calls itself a sh script; it needs bash.
    java -Xmx1500m -XX:TieredStopAtLevel=1 -XX:+UseSerialGC -cp "$KOTLIN/lib/kotlin-preloader.jar" org.jetbrains.kotlin.preloading.Preloader \
        -cp "$KOTLIN/lib/kotlin-compiler.jar" org.jetbrains.kotlin.cli.jvm.K2JVMCompiler \
        -kotlin-home "$KOTLIN" -jvm-target 1.8 -no-reflect -Werror -cp "$classpath" ${KOTLIN_OPTIONS:-} \
        -d "$jar.new.jar" $(find "$@" -name '*.kt' | sort)
    mv "$jar.new.jar" "$jar"
}
