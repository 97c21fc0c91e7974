package org.apache.spark.sql.helium.rules

import org.apache.spark.sql.catalyst.plans.logical._
import org.apache.spark.sql.helium.expressions.{LLMCall, SamplingOptions}
import org.apache.spark.sql.helium.plans.SharedCalls
import org.apache.spark.sql.helium.testing.PlanSuite

class ShareLLMSubplansSuite extends PlanSuite {

  /** A copy with ids of its own, pruned to the columns `kept` names. */
  private def copy(kept: String*)(template: String, sampling: SamplingOptions = SamplingOptions(16))
      : LogicalPlan = {
    val own = relation.output.map(_.newInstance())
    val question: LLMCall = callWith(sampling)(template, own.find(_.name == "body").get)
    val columns = own.filter(a => a.name == "body" || kept.contains(a.name))
    val a = answer(question)
    Project(columns.filter(c => kept.contains(c.name)) :+ a,
      eval(question -> a)(Project(columns, LocalRelation(own))))
  }

  private def shared(plan: LogicalPlan): Seq[SharedCalls] = plan.collect { case s: SharedCalls => s }

  test("two copies, pruned in different ways, become one") {
    val plan = Join(copy("id")("Good? {0}"), copy("title")("Good? {0}"),
      org.apache.spark.sql.catalyst.plans.Cross, None, JoinHint.NONE)
    val result = ShareLLMSubplans(plan)
    equal(shared(result).map(_.canonicalized).distinct.size, 1)
    equal(shared(result).size, 2)
    equal(result.output.map(_.exprId), plan.output.map(_.exprId))
    equal(ShareLLMSubplans(result) eq result, true, "idempotent")
  }

  test("other calls, draws, and a single one are left alone") {
    val draw = SamplingOptions(16, temperature = 1.0)
    Seq(
      Union(Seq(copy("id")("Good? {0}"), copy("id")("Bad? {0}"))),
      Union(Seq(copy("id")("Good? {0}", draw), copy("id")("Good? {0}", draw))),
      copy("id")("Good? {0}")
    ).foreach(plan => equal(shared(ShareLLMSubplans(plan)), Nil))
  }

  test("switched off") {
    val plan = Union(Seq(copy("id")("Good? {0}"), copy("id")("Good? {0}")))
    withSetting("spark.helium.optimizer.shareLLMSubplans.enabled", "false") {
      equal(ShareLLMSubplans(plan) eq plan, true)
    }
  }
}
