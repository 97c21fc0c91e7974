package org.apache.spark.sql.helium.expressions

import scala.util.control.NonFatal

import org.json4s._
import org.json4s.jackson.JsonMethods

import org.apache.spark.sql.catalyst.InternalRow
import org.apache.spark.sql.catalyst.util.{ArrayData, MapData}
import org.apache.spark.sql.helium.HeliumErrors
import org.apache.spark.sql.types._
import org.apache.spark.unsafe.types.UTF8String

/** A name that may come out of a call, with what the user says about it. */
case class Label(name: String, description: Option[String] = None)

/**
 * Reads names with optional descriptions: `array('a', 'b')`, `map('a', 'what a is')`,
 * `array(struct('a' AS label, 'what a is' AS description))`, and JSON text of an array of names or of an
 * object from names to descriptions.
 */
object Labels {

  private val listOrMap = "an array of names, such as array('a', 'b'); a map or JSON text of names and descriptions"

  /** The constant parameter `parameter`; at least one label, all different. */
  def read(arguments: FunctionArguments, parameter: String, expected: String = listOrMap): Seq[Label] = {
    val function = arguments.function
    val (value, dataType) = arguments.constants.any(parameter).getOrElse(
      throw HeliumErrors.optionOutOfRange(function, parameter, "NULL", expected))

    def wrongType(): Nothing =
      throw HeliumErrors.optionType(function, parameter, value, dataType, expected)

    def outOfRange(shown: String): Nothing = throw HeliumErrors.optionOutOfRange(
      function, parameter, shown, "one or more different strings that are not empty")

    def items(data: ArrayData, element: DataType): Seq[Any] = {
      val found = data.toObjectArray(element).toSeq
      if (found.contains(null)) outOfRange("an array with NULL in it")
      found
    }

    val labels = (value, dataType) match {
      case (a: ArrayData, ArrayType(element: StringType, _)) => items(a, element).map(v => Label(v.toString))
      case (a: ArrayData, ArrayType(NullType, _)) if a.numElements() == 0 => Nil
      case (a: ArrayData, ArrayType(element: StructType, _))
          if (1 to 2).contains(element.size) && element.forall(_.dataType.isInstanceOf[StringType]) =>
        items(a, element).map { item =>
          val row = item.asInstanceOf[InternalRow]
          if (row.isNullAt(0)) outOfRange("an array with NULL in it")
          val hasDescription = element.size == 2 && !row.isNullAt(1)
          Label(row.getString(0), Option.when(hasDescription)(row.getString(1)))
        }
      case (m: MapData, MapType(key: StringType, text: StringType, _)) =>
        val names = m.keyArray().toObjectArray(key)
        val descriptions = m.valueArray().toObjectArray(text)
        names.zip(descriptions).toSeq.map { case (n, d) => Label(n.toString, Option(d).map(_.toString)) }
      case (s: UTF8String, _: StringType) if s.toString.trim.matches("(?s)[\\[{].*") =>
        ofJson(s.toString).getOrElse(wrongType())
      case _ => wrongType()
    }
    val trimmed = labels.map(_.name.trim)
    trimmed.diff(trimmed.distinct).headOption.foreach { name =>
      outOfRange(s"a list in which '$name' stands twice")
    }
    if (labels.isEmpty || trimmed.exists(_.isEmpty)) {
      outOfRange(labels.map(l => s"'${l.name}'").mkString("array(", ", ", ")"))
    }
    labels
  }

  private def ofJson(text: String): Option[Seq[Label]] = {
    val json = try JsonMethods.parse(text) catch {
      case NonFatal(_) => JNothing
    }
    val labels = json match {
      case JArray(names) => names.map {
        case JString(name) => Some(Label(name))
        case _ => None
      }
      case JObject(fields) => fields.map {
        case (name, JString(description)) => Some(Label(name, Some(description).filter(_.nonEmpty)))
        case _ => None
      }
      case _ => Seq(None)
    }
    Option.when(labels.forall(_.isDefined))(labels.flatten)
  }

  /** The names as a list; with a line for each label where one has a description. */
  def listed(labels: Seq[Label]): String =
    if (labels.exists(_.description.isDefined)) {
      labels.map(l => s"- ${l.name}${l.description.fold("")(": " + _)}").mkString("\n", "\n", "")
    } else {
      labels.map(_.name).mkString(" ", ", ", ".")
    }

  /**
   * A regular expression for JSON arrays of the names, each at most once and in this order: JSON schemas
   * that ask for different items are beyond engines.
   */
  def subsets(labels: Seq[Label]): String = {
    val names = labels.map(l => quoted(JsonMethods.compact(JString(l.name))))
    val starts = names.zipWithIndex.map { case (first, i) =>
      first + names.drop(i + 1).map(next => s"(, $next)?").mkString
    }
    starts.mkString("\\[(", "|", ")?\\]")
  }

  private def quoted(text: String): String =
    text.flatMap(c => if ("\\^$.|?*+()[]{}/-".contains(c)) s"\\$c" else c.toString)
}
