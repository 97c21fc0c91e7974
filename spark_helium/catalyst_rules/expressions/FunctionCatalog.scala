package org.apache.spark.sql.helium.expressions

import org.apache.spark.sql.catalyst.FunctionIdentifier
import org.apache.spark.sql.catalyst.expressions.{Expression, ExpressionInfo}
import org.apache.spark.sql.helium.expressions.functions._

/**
 * All functions of the extension. Each family stands in a file of its own below `functions/`; its functions
 * say to which group of the documentation they belong.
 */
object FunctionCatalog {

  type Builder = Seq[Expression] => Expression

  /**
   * A chapter of the documentation.
   *
   * @param isDocumented false for what users have no need to know
   */
  sealed abstract class Group(val title: String, val isDocumented: Boolean = true)

  object Group {
    case object Core extends Group("Core")
    case object Queries extends Group("Free questions")
    case object Text extends Group("Text")
    case object Classification extends Group("Classification and filters")
    case object Extraction extends Group("Extraction")
    case object Scores extends Group("Scores and embeddings")
    case object Aggregates extends Group("Aggregates and folds")
    case object Plumbing extends Group("Plumbing", isDocumented = false)

    /** In the order of the documentation. Not a value: a group's constructor initializes this object first. */
    def all: Seq[Group] =
      Seq(Core, Queries, Classification, Extraction, Text, Scores, Aggregates, Plumbing)
  }

  /**
   * @param arguments a list below the word "Arguments:", for DESCRIBE FUNCTION EXTENDED
   * @param examples SQL statements below the word "Examples:", each from `> ` to a semicolon; they run as they are
   */
  case class Function(
      name: String,
      usage: String,
      arguments: String,
      examples: String,
      group: Group,
      builder: Builder) {

    def description: (FunctionIdentifier, ExpressionInfo, Builder) = {
      val info = new ExpressionInfo(
        "org.apache.spark.sql.helium.expressions.LLMCall", null, name, usage, arguments, examples,
        "", "", "0.1.0", "", "scala_udf")
      (FunctionIdentifier(name), info, builder)
    }
  }

  /** One line per family, so that two branches that add one can be merged. */
  private val families: Seq[Seq[Function]] = Seq(
    Core.functions,
    Queries.functions,
    Classification.functions,
    Extraction.functions,
    TextFunctions.functions,
    Scores.functions,
    Embeddings.functions,
    Aggregates.functions,
    Folds.functions,
    Tournaments.functions,
    Plumbing.functions)

  val all: Seq[Function] = families.flatten

  /** The functions of a group, in the order of their family's file. */
  def of(group: Group): Seq[Function] = all.filter(_.group == group)
}
