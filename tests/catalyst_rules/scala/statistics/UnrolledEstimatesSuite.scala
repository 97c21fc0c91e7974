package org.apache.spark.sql.helium.statistics

import org.apache.spark.sql.catalyst.InternalRow
import org.apache.spark.sql.catalyst.expressions._
import org.apache.spark.sql.catalyst.plans.logical._
import org.apache.spark.sql.helium.expressions._
import org.apache.spark.sql.helium.expressions.functions.{Aggregates, Folds, Tournaments}
import org.apache.spark.sql.helium.plans.EvalLLM
import org.apache.spark.sql.helium.rules.{ExtractLLMCalls, RewriteAIAggregates}
import org.apache.spark.sql.helium.testing.PlanSuite
import org.apache.spark.sql.types.StringType
import org.apache.spark.unsafe.types.UTF8String

class UnrolledEstimatesSuite extends PlanSuite {

  // 20 texts of 64 characters for each of two ids: 16 tokens, and 4 of a separator.
  private val local = LocalRelation(Seq(id, body), (0 until 40).map(i =>
    InternalRow(i % 2, UTF8String.fromString("abcd" * 16))))

  private def estimate(budget: Int): CallEstimate = withSetting("spark.helium.agg.tokens", budget.toString) {
    val f = Aggregates.functions.head.builder(Seq(
      body, Literal("Sum up."), NamedArgumentExpression("max_tokens", Literal(20)))).asInstanceOf[AIAgg]
    val plan = ExtractLLMCalls(RewriteAIAggregates(
      Aggregate(Seq(id), Seq(id, Alias(f.toAggregateExpression(), "a")()), local)))
    new CallEstimates().of(plan.collectFirst { case e: EvalLLM => e }.get).head
  }

  test("groups that fit one prompt are a call each") {
    equal(estimate(1000).calls.value, 2.0)
    equal(estimate(1000).promptTokens > 400, true)
  }

  test("larger ones are leaves and what puts them together") {
    // 400 tokens in prompts of 100, five answers of 20 tokens in one.
    equal(estimate(100).calls.value, 2 * (4 + 1.0))
    // In prompts of 50: 8 leaves, 4 + 2 + 1 above them.
    equal(estimate(50).calls.value, 2 * (8 + 4 + 2 + 1.0))
  }

  test("a fold is a call per element") {
    val call = Folds.functions.head.builder(Seq(
      CreateArray(Seq(body, body, body)), Literal("{0}"), Literal("{0} {1}"))).asInstanceOf[LLMCall]
    val Seq(found) = new CallEstimates().of(eval(call -> answer(call))(local)): @unchecked
    equal(found.calls.value, 40 * 3.0)
  }

  test("a tournament is as many comparisons as it makes at most") {
    val call = Tournaments.functions.head.builder(Seq(
      CreateArray(Seq.fill(8)(body)), Literal(UTF8String.fromString("c"), StringType), Literal(3)))
      .asInstanceOf[LLMCall]
    val Seq(found) = new CallEstimates().of(eval(call -> answer(call))(local)): @unchecked
    equal(found.calls.value, 40 * (8 - 1 + 2 * (3 - 1.0)))
    // Two texts of 16 tokens and a separator each, and the question.
    equal(found.promptTokens > 40, true)
  }

  test("most comparisons of a tournament") {
    def most(texts: Int, take: Int): Double = Tournaments.mostComparisons(texts.toDouble, take)
    equal(Seq(0, 1).map(most(_, 3)), Seq(0.0, 0.0))
    equal(most(2, 9), 1.0)
    equal(most(8, 1), 7.0)
    equal(most(5, 2), 4 + (3 - 1.0))
    equal(most(5, 9), 4 + 4 * (3 - 1.0))
  }
}
