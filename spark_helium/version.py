"""The version of spark_helium, in one place: the Python build, the jar's manifest and build.sbt read this file."""

__version__ = "0.1.0"
