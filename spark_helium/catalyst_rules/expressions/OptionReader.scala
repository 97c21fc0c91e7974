package org.apache.spark.sql.helium.expressions

import java.util.Locale

import scala.util.control.NonFatal

import org.apache.spark.sql.catalyst.expressions._
import org.apache.spark.sql.catalyst.util.ArrayData
import org.apache.spark.sql.helium.HeliumErrors
import org.apache.spark.sql.types._
import org.apache.spark.unsafe.types.UTF8String

/**
 * Reads the named arguments of a function as typed constants, by name without regard to case or
 * underscores (`failOnError`, `fail_on_error`). A NULL value is an option that was not given.
 */
private[expressions] class OptionReader(function: String, named: Seq[(String, Expression)]) {

  private val byName: Map[String, (String, Expression)] =
    named.map { case (name, value) => OptionReader.normalize(name) -> (name -> value) }.toMap

  def string(name: String): Option[String] = value(name, "a string") {
    case (s: UTF8String, _) => s.toString
  }

  def boolean(name: String): Option[Boolean] = value(name, "true or false") {
    case (b: Boolean, _) => b
  }

  def int(name: String, expected: String)(ok: Int => Boolean): Option[Int] =
    integral(name, expected)(v => v.isValidInt && ok(v.toInt)).map(_.toInt)

  def long(name: String, expected: String)(ok: Long => Boolean): Option[Long] =
    integral(name, expected)(v => v.isValidLong && ok(v.toLong)).map(_.toLong)

  def double(name: String, expected: String)(ok: Double => Boolean): Option[Double] = {
    val read = value(name, "a number") {
      case (d: Decimal, _) => d.toDouble
      case (n: Number, _: NumericType) => n.doubleValue()
    }
    read.foreach(v => if (!ok(v)) throw HeliumErrors.optionOutOfRange(function, name, v, expected))
    read
  }

  /** Strings of an array; a lone string counts as an array of one. */
  def strings(name: String): Option[Seq[String]] = value(name, "an array of strings") {
    case (s: UTF8String, _) => Seq(s.toString)
    case (a: ArrayData, ArrayType(_: StringType, _)) =>
      a.toObjectArray(StringType).toSeq.map { item =>
        if (item == null) {
          throw HeliumErrors.optionOutOfRange(function, name, "an array with NULL in it",
            "an array of strings that are not NULL")
        }
        item.toString
      }
  }

  /** Value and type of a constant of any type. */
  def any(name: String): Option[(Any, DataType)] = value(name, "") { case pair => pair }

  private def integral(name: String, expected: String)(ok: BigInt => Boolean): Option[BigInt] = {
    val read = value(name, "a whole number") {
      case (n: Number, _: IntegralType) => BigInt(n.longValue())
      case (d: Decimal, t: DecimalType) if t.scale == 0 => d.toBigDecimal.toBigInt
    }
    read.foreach(v => if (!ok(v)) throw HeliumErrors.optionOutOfRange(function, name, v, expected))
    read
  }

  private def value[T](name: String, expected: String)(
      read: PartialFunction[(Any, DataType), T]): Option[T] = {
    byName.get(OptionReader.normalize(name)).flatMap { case (_, expression) =>
      OptionReader.constant(expression) match {
        case None => throw HeliumErrors.optionNotConstant(function, name, expression)
        case Some(null) => None
        case Some(v) => Some(read.applyOrElse((v, expression.dataType), { _: (Any, DataType) =>
          throw HeliumErrors.optionType(function, name, v, expression.dataType, expected)
        }))
      }
    }
  }
}

private[helium] object OptionReader {

  def normalize(name: String): String = name.toLowerCase(Locale.ROOT).replace("_", "")

  /** Value of a constant expression; None when it is none, or cannot be computed here. */
  def constant(expression: Expression): Option[Any] = expression match {
    case Literal(value, _) => Some(value)
    case Alias(child, _) => constant(child)
    case e if e.foldable && e.resolved =>
      try {
        Some(e.transform { case r: RuntimeReplaceable => r.replacement }.eval(EmptyRow))
      } catch {
        case NonFatal(_) => None
      }
    case _ => None
  }
}
