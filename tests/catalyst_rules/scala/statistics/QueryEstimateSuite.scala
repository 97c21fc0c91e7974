package org.apache.spark.sql.helium.statistics

import org.apache.spark.sql.catalyst.InternalRow
import org.apache.spark.sql.catalyst.expressions._
import org.apache.spark.sql.catalyst.plans.logical._
import org.apache.spark.sql.helium.expressions._
import org.apache.spark.sql.helium.plans.EvalLLM
import org.apache.spark.sql.helium.testing.PlanSuite
import org.apache.spark.unsafe.types.UTF8String

class QueryEstimateSuite extends PlanSuite {

  private val local = LocalRelation(Seq(id, body), (0 until 20).map(i =>
    InternalRow(i, UTF8String.fromString("abcd" * (1 + i % 2)))))

  private def node(c: LLMCall, child: LogicalPlan = local): EvalLLM = eval(c -> answer(c))(child)

  test("different prompts are calls, and their tokens count with one of answer each") {
    val estimate = QueryEstimate.of(node(call("Rate {}", body)))
    equal(estimate.calls, Estimate(2, measured = true))
    val ofOne = new CallEstimates().of(node(call("Rate {}", body))).head.promptTokens
    equal(estimate.tokens, Estimate(2 * (ofOne + 1), measured = true))
  }

  test("a draw asks for every row") {
    val drawn = callWith(SamplingOptions(16, temperature = 1.0))("Rate {}", body)
    equal(QueryEstimate.of(node(drawn)).calls, Estimate(20, measured = true))
  }

  test("all nodes count, equal ones once, and those of subqueries") {
    val (one, other) = (node(call("One {}", id)), node(call("Other {}", id)))
    equal(QueryEstimate.of(Union(Seq(one, other))).calls.value, 40.0)
    equal(QueryEstimate.of(Union(Seq(one, one))).calls.value, 20.0)
    val inside = Filter(Exists(other), one)
    equal(QueryEstimate.of(inside).calls.value, 40.0)
  }

  test("a default anywhere makes it a guess") {
    val filtered = Filter(Like(body, Literal("%b%"), '\\'), local)
    equal(QueryEstimate.of(Union(Seq(node(call("One {}", id)), node(call("Two {}", id), filtered)))).calls.measured,
      false)
  }

  test("an answer's length is not known, and so the tokens of who reads it are not") {
    val first = call("Rate {}", body)
    val rated = answer(first)
    val second = call("Why {}", rated)
    val estimate = QueryEstimate.of(eval(first -> rated, second -> answer(second))(local))
    equal(estimate.calls, Estimate(4, measured = true))
    equal(estimate.tokens.measured, false)
  }

  test("a plan without calls needs none") {
    equal(QueryEstimate.of(local).calls, Estimate(0, measured = true))
  }
}
