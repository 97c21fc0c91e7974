package org.apache.spark.sql.helium.expressions.functions

import org.apache.spark.sql.AnalysisException
import org.apache.spark.sql.catalyst.expressions._
import org.apache.spark.sql.helium.expressions._
import org.apache.spark.sql.helium.testing.PlanSuite
import org.apache.spark.sql.types._

class TournamentsSuite extends PlanSuite {

  private val texts = AttributeReference("texts", ArrayType(StringType))()

  private def build(expressions: Expression*): LLMCall =
    Tournaments.functions.head.builder(expressions).asInstanceOf[LLMCall]

  private def condition(expressions: Expression*): String =
    intercept[AnalysisException](build(expressions: _*)).getCondition

  test("the prompt has the criterion first, then both texts, and is answered with 1 or 2") {
    val call = build(texts, Literal("the shortest"), Literal(3))
    val Unrolled(Best(3), _, Seq(ask), 0, _) = call.prompt: @unchecked
    val Seq(Text(beginning), one, Text(between), other) = ask.content.parts: @unchecked
    equal((one, other), (Slot(Unrolled.soFar), Slot(Unrolled.atHand)))
    equal(beginning.contains("Criterion: the shortest\n\nText 1:\n"), true)
    equal(between, "\n\nText 2:\n")
    equal(call.options.constraint, Some(Choices(Seq("1", "2"))))
    equal(call.dataType, ArrayType(IntegerType, containsNull = false))
  }

  test("what is written otherwise is another call") {
    val call = build(texts, Literal("a"), Literal(1))
    equal(call.semanticEquals(build(texts, Literal("a"), Literal(1))), true)
    equal(call.semanticEquals(build(texts, Literal("b"), Literal(1))), false)
    equal(call.semanticEquals(build(texts, Literal("a"), Literal(2))), false)
  }

  test("what is no criterion, no number and no array of texts is refused") {
    equal(condition(texts, Literal(""), Literal(1)), "HELIUM_OPTION_TYPE")
    equal(condition(texts, body, Literal(1)), "HELIUM_OPTION_NOT_CONSTANT")
    equal(condition(texts, Literal("a"), Literal(0)), "HELIUM_OPTION_OUT_OF_RANGE")
    equal(condition(texts, Literal("a"), Literal("1")), "HELIUM_OPTION_TYPE")
    equal(condition(texts, Literal("a"), id), "HELIUM_OPTION_NOT_CONSTANT")
    equal(condition(body, Literal("a"), Literal(1)), "HELIUM_OPTION_TYPE")
  }
}
