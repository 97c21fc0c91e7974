package org.apache.spark.sql.helium.expressions.functions

import org.apache.spark.sql.catalyst.expressions.Expression
import org.apache.spark.sql.helium.HeliumErrors
import org.apache.spark.sql.helium.expressions._
import org.apache.spark.sql.helium.expressions.FunctionCatalog.{Function, Group}
import org.apache.spark.sql.types.{ArrayType, IntegerType}
import org.apache.spark.unsafe.types.UTF8String

/** The best elements of an array by pairwise comparisons, one call each. */
object Tournaments {

  val functions: Seq[Function] = Seq(
    Function(
      name = "llm_top_k",
      usage = "_FUNC_(array, criterion, k) - The positions, from 0, of the k elements of an array that fit a criterion" +
        " best, the best first. Pairs of elements are compared, a call each: of n different elements at most" +
        " n - 1 + (k - 1) * (ceil(log2(n)) - 1) pairs. Equal elements are not compared, they follow each other in their" +
        " order. A hash says which element of a pair the model reads first, so that the same elements are chosen" +
        " whatever order they come in.",
      arguments =
        """
    Arguments:
      * array - an array of texts. NULL elements are passed over; NULL, and an array without texts, give NULL.
      * criterion - constant: what the elements are compared by, such as 'the most specific complaint'.
      * k - constant: how many positions to give, 1 or more; fewer come where there are fewer texts.
      * model, max_tokens, temperature, top_p, seed, stop, failOnError - as in llm().
  """,
      examples =
        """
    Examples:
      > SELECT _FUNC_(array('It broke.', 'The left hinge broke after a week.', 'Bad.'), 'the most specific complaint', 2);
      > SELECT _FUNC_(collect_list(body), 'the most useful review', 1) FROM reviews;
      > SELECT inline(transform(_FUNC_(bodies, 'the most useful review', 3), i -> found[i]))
        FROM (SELECT found, found.body AS bodies FROM (SELECT collect_list(struct(*)) AS found FROM reviews));
  """,
      group = Group.Aggregates,
      builder = topK))

  /** Most comparisons that a tournament over so many different texts makes; see `Tournament` in `gpu_executor/composite.py`. */
  def mostComparisons(texts: Double, take: Int): Double =
    if (texts < 2) 0
    else {
      val levels = math.ceil(math.log(texts) / math.log(2))
      texts - 1 + (texts.min(take.toDouble) - 1) * (levels - 1).max(0)
    }

  private def topK(expressions: Seq[Expression]): Expression = {
    val function = "llm_top_k"
    val (given, options) = Aggregates.arguments(function, expressions, Seq("array", "criterion", "k"))
    val criterion = OptionReader.constant(given(1)) match {
      case Some(text: UTF8String) if text.toString.trim.nonEmpty => text.toString
      case Some(other) => throw HeliumErrors.optionType(function, "criterion", String.valueOf(other),
        given(1).dataType, "a string that says what the elements are compared by")
      case None => throw HeliumErrors.optionNotConstant(function, "criterion", given(1))
    }
    val whole = s"a whole number, 1 to ${Int.MaxValue}"
    val take = new OptionReader(function, Seq("k" -> given(2))).int("k", whole)(_ >= 1)
      .getOrElse(throw HeliumErrors.optionOutOfRange(function, "k", "NULL", whole))
    val beginning = Text(
      s"Which of the two texts fits the criterion better? Answer with 1 or 2.\n\nCriterion: $criterion\n\nText 1:\n")
    val prompt = Unrolled(
      Best(take),
      first = user(beginning, Slot(Unrolled.atHand)),
      further = user(beginning, Slot(Unrolled.soFar), Text("\n\nText 2:\n"), Slot(Unrolled.atHand)),
      slot = 0,
      shown = Seq(criterion, take.toString))
    LLMCallBuilder.unrolled(function, prompt, Folds.texts(function, given.head), options,
      Some((Choices(Seq("1", "2")), ArrayType(IntegerType, containsNull = false))))
  }

  private def user(parts: PromptPart*): Seq[MessageTemplate] =
    Seq(MessageTemplate("user", PromptTemplate(parts)))
}
