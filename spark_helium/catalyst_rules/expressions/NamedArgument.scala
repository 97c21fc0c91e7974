package org.apache.spark.sql.helium.expressions

import org.apache.spark.sql.catalyst.expressions.{Expression, NamedArgumentExpression}
import org.apache.spark.sql.helium.HeliumErrors
import org.apache.spark.unsafe.types.UTF8String

/**
 * `helium_named_argument('name', value)`: what `name => value` is in SQL, for APIs that can call a
 * function but not name its arguments (`call_function` of the DataFrame API, classic and Connect).
 */
object NamedArgument {

  val function = "helium_named_argument"

  def build(expressions: Seq[Expression]): Expression = expressions match {
    case Seq(name, value) => OptionReader.constant(name) match {
      case Some(n: UTF8String) => NamedArgumentExpression(n.toString, value)
      case _ => throw HeliumErrors.optionNotConstant(function, "name", name)
    }
    case other => throw HeliumErrors.templateArguments(function, "",
      s"it takes a name and a value, and got ${other.size} arguments")
  }
}
