// For JVM users: builds and tests the same sources as the Python build (spark_helium/catalyst_rules/compiler.py).
//
//   sbt package   the jar, in target/scala-2.13/
//   sbt test      the Scala suites
//
// Needs a JDK 17 or newer and sbt. Spark is Provided: the cluster brings it.

val sparkVersion = "4.3.0"

// One place for the version: spark_helium/version.py.
def versionOf(file: File): String =
  """__version__ = "([^"]+)"""".r
    .findFirstMatchIn(IO.read(file))
    .map(_.group(1))
    .getOrElse(sys.error(s"no __version__ in $file"))

lazy val sparkHelium = (project in file("."))
  .settings(
    name := "spark-helium",
    organization := "spark-helium",
    version := versionOf(baseDirectory.value / "spark_helium" / "version.py"),
    licenses := Seq("Apache-2.0" -> url("https://www.apache.org/licenses/LICENSE-2.0")),
    scalaVersion := "2.13.18",

    // compiler.py has the same flags.
    scalacOptions := Seq(
      "-Werror",
      "-Xlint",
      "-deprecation",
      "-feature",
      "-unchecked",
      "-release",
      "17",
      "-encoding",
      "UTF-8"
    ),

    Test / scalacOptions += "-Wconf:cat=other-match-analysis:s",

    libraryDependencies ++= Seq(
      "org.apache.spark" %% "spark-catalyst" % sparkVersion % Provided,
      "org.apache.spark" %% "spark-sql" % sparkVersion % Provided
    ),

    // The sources stand inside the Python package; sbt takes *.scala and leaves the rest.
    Compile / unmanagedSourceDirectories := Seq(baseDirectory.value / "spark_helium" / "catalyst_rules"),
    Compile / unmanagedResourceDirectories := Seq(
      baseDirectory.value / "spark_helium" / "catalyst_rules" / "resources"
    ),
    Test / unmanagedSourceDirectories := Seq(baseDirectory.value / "tests" / "catalyst_rules" / "scala"),
    Test / unmanagedResourceDirectories := Nil,

    Compile / packageBin / packageOptions += Package.ManifestAttributes(
      "Spark-Version" -> sparkVersion,
      "Scala-Version" -> scalaVersion.value
    ),

    // The suites have a runner of their own and need no test library. Spark needs its options on Java 17.
    Test / fork := true,
    Test / javaOptions ++= IO
      .readLines(baseDirectory.value / "tests" / "catalyst_rules" / "jvm-options.txt")
      .map(_.trim)
      .filter(_.nonEmpty),
    Test / test := (Test / runMain).toTask(" org.apache.spark.sql.helium.testing.RunSuites").value
  )
