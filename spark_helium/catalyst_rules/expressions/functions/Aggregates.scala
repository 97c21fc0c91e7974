package org.apache.spark.sql.helium.expressions.functions

import org.apache.spark.sql.catalyst.expressions.{Expression, Literal}
import org.apache.spark.sql.helium.{HeliumConf, HeliumErrors}
import org.apache.spark.sql.helium.expressions._
import org.apache.spark.sql.helium.expressions.FunctionCatalog.{Function, Group}
import org.apache.spark.sql.internal.SQLConf
import org.apache.spark.sql.types.{ArrayType, StringType}
import org.apache.spark.unsafe.types.UTF8String

/**
 * Aggregates: a language model makes one text of a group's texts.
 *
 * As many texts as fit `spark.helium.agg.tokens` go into one prompt, in the order of the rows; several
 * answers are put together in the same way, until there is one.
 */
object Aggregates {

  private val optionLines =
    """      * model, max_tokens, temperature, top_p, seed, stop, failOnError - as in llm(); max_tokens holds for each
          of the answers that are put together.
      * partial - constant, false by default: whether the texts of a group are reduced within each partition first,
          before they travel, and then the answers of the partitions, in their order. The answer then depends on how the
          rows are partitioned."""

  private val textLines =
    """      * content - a text per row, or anything that can be written as text. NULLs are passed over; a group
          without texts gives NULL. Texts are taken in the order of the rows."""

  val functions: Seq[Function] = Seq(
    Function(
      name = "ai_agg",
      usage = "_FUNC_(content, instruction) - What a language model makes of all texts of a group under the instruction." +
        " Groups of any size are reduced as a tree of calls.",
      arguments =
        s"""
    Arguments:
$textLines
      * instruction - constant: what to do with the texts, such as 'Name the three most frequent complaints.'
$optionLines
  """,
      examples =
        """
    Examples:
      > SELECT product, _FUNC_(body, 'Name the most frequent complaint.', max_tokens => 32)
        FROM reviews GROUP BY product ORDER BY product LIMIT 2;
      > SELECT _FUNC_(DISTINCT body, 'What do these reviews agree on?') FILTER (WHERE stars < 3) FROM reviews;
  """,
      group = Group.Aggregates,
      builder = aiAgg),
    Function(
      name = "ai_summarize_agg",
      usage = "_FUNC_(content) - A summary of all texts of a group.",
      arguments =
        s"""
    Arguments:
$textLines
$optionLines
  """,
      examples =
        """
    Examples:
      > SELECT product, count(*), _FUNC_(body, max_tokens => 64) FROM reviews GROUP BY product ORDER BY product LIMIT 2;
  """,
      group = Group.Aggregates,
      builder = summarize))

  private def aiAgg(expressions: Seq[Expression]): Expression = {
    val function = "ai_agg"
    val (positional, named) = arguments(function, expressions, Seq("content", "instruction"))
    val instruction = OptionReader.constant(positional(1)) match {
      case Some(text: UTF8String) if text.toString.trim.nonEmpty => text.toString
      case Some(_: UTF8String) => throw HeliumErrors.optionOutOfRange(function, "instruction", "empty",
        "a string that says what to do with the texts")
      case Some(other) => throw HeliumErrors.optionType(function, "instruction", String.valueOf(other),
        positional(1).dataType, "a string that says what to do with the texts")
      case None => throw HeliumErrors.optionNotConstant(function, "instruction", positional(1))
    }
    aggregate(function, positional.head, instruction, Seq(instruction), named)
  }

  private def summarize(expressions: Seq[Expression]): Expression = {
    val function = "ai_summarize_agg"
    val (positional, named) = arguments(function, expressions, Seq("content"))
    aggregate(function, positional.head, "Summarize the texts together in a few sentences.", Nil, named)
  }

  private def aggregate(
      function: String,
      content: Expression,
      instruction: String,
      shown: Seq[String],
      options: Seq[(String, Expression)]): AIAgg = {
    val prompt = Unrolled(
      Reduce(HeliumConf.int(SQLConf.get, "spark.helium.agg.tokens")),
      first = user(
        Text("Follow the instruction for all of the texts together. Lines of --- stand between the texts.\n\n" +
          s"Instruction: $instruction\n\nTexts:\n"),
        Slot(Unrolled.atHand)),
      further = user(
        Text("Groups of texts were handled under the instruction, one after the other. Put their results, between " +
          "which lines of --- stand, together into one result for all texts.\n\n" +
          s"Instruction: $instruction\n\nResults:\n"),
        Slot(Unrolled.atHand)),
      slot = 0,
      shown = shown)
    val texts = Literal(null, ArrayType(StringType))
    val (partial, ofCall) = options.partition { case (name, _) => OptionReader.normalize(name) == "partial" }
    AIAgg(LLMCallBuilder.text(function, content, 1),
      LLMCallBuilder.unrolled(function, prompt, texts, ofCall),
      new OptionReader(function, partial).boolean("partial").getOrElse(false))
  }

  private def user(parts: PromptPart*): Seq[MessageTemplate] =
    Seq(MessageTemplate("user", PromptTemplate(parts)))

  /** The arguments in the order of their names, by position or by name; and the options. */
  private[functions] def arguments(
      function: String,
      expressions: Seq[Expression],
      names: Seq[String]): (Seq[Expression], Seq[(String, Expression)]) = {
    val (positional, named) = LLMCallBuilder.split(function, expressions)
    def parameter(name: String): Option[String] =
      names.find(n => OptionReader.normalize(n) == OptionReader.normalize(name))
    val (own, options) = named.partition { case (name, _) => parameter(name).isDefined }
    val byName = own.map { case (name, value) => parameter(name).get -> value }.toMap
    val left = names.filterNot(byName.contains)
    if (positional.size != left.size) {
      throw HeliumErrors.arguments(function, names.mkString(s"$function(", ", ", ", option => value...)"),
        left.drop(positional.size) match {
          case Seq() => s"it takes ${names.size} arguments, and got ${positional.size + own.size}"
          case Seq(one) => s"the argument $one is missing"
          case several => s"the arguments ${several.mkString(" and ")} are missing"
        })
    }
    val all = byName ++ left.zip(positional)
    (names.map(all), options)
  }
}
