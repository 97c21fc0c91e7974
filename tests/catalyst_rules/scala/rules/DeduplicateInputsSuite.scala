package org.apache.spark.sql.helium.rules

import org.apache.spark.sql.catalyst.InternalRow
import org.apache.spark.sql.catalyst.expressions._
import org.apache.spark.sql.catalyst.plans.LeftOuter
import org.apache.spark.sql.catalyst.plans.logical._
import org.apache.spark.sql.helium.plans.EvalLLM
import org.apache.spark.sql.helium.testing.PlanSuite
import org.apache.spark.unsafe.types.UTF8String

class DeduplicateInputsSuite extends PlanSuite {

  private def rows(n: Int, texts: Int): LocalRelation = LocalRelation(Seq(id, body, title),
    (0 until n).map(i => InternalRow(i, UTF8String.fromString(s"text ${i % texts}"), null)))

  private val question = call("Good? {0}", body)
  private val a = answer(question)

  private def deduplicate(plan: LogicalPlan): LogicalPlan = {
    val key = "spark.helium.optimizer.deduplicateInputs.minRows"
    val result = withSetting(key, "50")(DeduplicateInputs(plan))
    equal(result.output.map(_.exprId), plan.output.map(_.exprId), "the output must stay")
    result
  }

  private def stays(plan: LogicalPlan): Unit = samePlan(withoutNotes(deduplicate(plan)), plan)

  test("few inputs over many rows are computed once each") {
    val node = eval(question -> a)(rows(100, 5))
    deduplicate(node) match {
      case Project(_, Join(_, EvalLLM(Seq(once), _, aggregate: Aggregate, _, _), LeftOuter,
          Some(EqualNullSafe(_, key)), _)) =>
        equal(once.arguments, aggregate.output)
        equal(aggregate.output, Seq(key))
      case other => throw new AssertionError(other.toString)
    }
  }

  test("not where inputs repeat little, rows are few, an order is asked for, or nothing is known") {
    stays(eval(question -> a)(rows(100, 50)))
    stays(eval(question -> a)(rows(40, 2)))
    stays(eval(question -> a)(Sort(Seq(SortOrder(id, Ascending)), global = true, rows(100, 5))))
    stays(eval(question -> a)(Filter(LessThan(Rand(Literal(1L)), Literal(0.5)), rows(100, 5))))
  }

  test("switched off") {
    val node = eval(question -> a)(rows(100, 5))
    withSetting("spark.helium.optimizer.deduplicateInputs.enabled", "false") {
      equal(DeduplicateInputs(node) eq node, true)
    }
  }
}
