package org.apache.spark.sql.helium.testing

import scala.collection.mutable
import scala.reflect.ClassTag
import scala.util.control.NonFatal

/** A few named tests. Spark's own test jars are not published for users, so this is all there is. */
abstract class HeliumSuite {

  private val tests = mutable.LinkedHashMap.empty[String, () => Unit]

  protected def test(name: String)(body: => Unit): Unit = {
    require(!tests.contains(name), s"two tests are called '$name'")
    tests(name) = () => body
  }

  protected def equal[T](actual: T, expected: T, what: String = ""): Unit =
    if (actual != expected) {
      throw new AssertionError(s"$what\nexpected: $expected\nactual:   $actual".trim)
    }

  protected def intercept[E <: Throwable](body: => Any)(implicit tag: ClassTag[E]): E = {
    val thrown = try {
      body
      None
    } catch {
      case e: Throwable => Some(e)
    }
    thrown match {
      case Some(e: E) => e
      case Some(other) => throw new AssertionError(s"expected $tag, got $other", other)
      case None => throw new AssertionError(s"expected $tag, and nothing was thrown")
    }
  }

  /** Runs the tests; the failures with their names. */
  def run(): Seq[(String, Option[Throwable])] = tests.toSeq.map { case (name, body) =>
    val failure = try {
      body()
      None
    } catch {
      case e: AssertionError => Some(e)
      case NonFatal(e) => Some(e)
    }
    s"${getClass.getSimpleName}: $name" -> failure
  }
}
