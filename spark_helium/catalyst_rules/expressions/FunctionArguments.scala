package org.apache.spark.sql.helium.expressions

import org.apache.spark.sql.catalyst.expressions.{Expression, NamedArgumentExpression}
import org.apache.spark.sql.helium.HeliumErrors

/**
 * A parameter of a function.
 *
 * @param aliases other names, with which other products know it
 */
case class Parameter(name: String, isRequired: Boolean = true, aliases: Seq[String] = Nil) {

  def isNamed(word: String): Boolean =
    (name +: aliases).exists(OptionReader.normalize(_) == OptionReader.normalize(word))
}

/**
 * The arguments of a call of a function with fixed parameters: each bound by position or by name.
 * Every other named argument is an option of the LLM call.
 *
 * @param known names of the options that the function takes
 */
private[expressions] class FunctionArguments(
    val function: String,
    parameters: Seq[Parameter],
    known: Seq[String],
    expressions: Seq[Expression]) {

  private val (positional, named) = LLMCallBuilder.split(function, expressions)

  private val usage: String = parameters.map(p => if (p.isRequired) p.name else s"[${p.name}]")
    .mkString(s"$function(", ", ", ", option => value...)")

  if (positional.size > parameters.size) {
    throw HeliumErrors.arguments(function, usage,
      s"it takes ${parameters.size} arguments by position, and got ${positional.size}")
  }

  private val bound: Map[String, Expression] = {
    val byPosition = parameters.zip(positional).map { case (p, e) => p.name -> e }
    val byName = named.flatMap { case (name, e) => parameters.find(_.isNamed(name)).map(_.name -> e) }
    val all = byPosition ++ byName
    all.groupBy(_._1).collectFirst { case (name, several) if several.size > 1 => name }.foreach { name =>
      throw HeliumErrors.arguments(function, usage, s"the argument $name is given twice")
    }
    parameters.find(p => p.isRequired && !all.exists(_._1 == p.name)).foreach { p =>
      throw HeliumErrors.arguments(function, usage, s"the argument ${p.name} is missing")
    }
    all.toMap
  }

  /** The named arguments that are no parameters. */
  val options: Seq[(String, Expression)] =
    named.filterNot { case (name, _) => parameters.exists(_.isNamed(name)) }

  options.foreach { case (name, _) =>
    if (!known.exists(o => OptionReader.normalize(o) == OptionReader.normalize(name))) {
      throw HeliumErrors.unknownOption(function, name, parameters.map(_.name) ++ known)
    }
  }

  def apply(parameter: String): Expression = bound(parameter)

  def get(parameter: String): Option[Expression] = bound.get(parameter)

  /** Reads parameters that must be constants. */
  val constants: OptionReader = new OptionReader(function, bound.toSeq)

  /** The call as the user wrote it, standing for `replacement`. */
  def standingFor(replacement: Expression): LibraryCall =
    LibraryCall(function, expressions.map {
      case NamedArgumentExpression(name, value) => Some(name) -> value
      case value => None -> value
    }, replacement)
}
