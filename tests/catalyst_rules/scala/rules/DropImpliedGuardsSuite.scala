package org.apache.spark.sql.helium.rules

import org.apache.spark.sql.catalyst.expressions._
import org.apache.spark.sql.catalyst.plans.logical._
import org.apache.spark.sql.helium.testing.PlanSuite

class DropImpliedGuardsSuite extends PlanSuite {

  private val question = call("Good? {0}", body)
  private val a = answer(question)
  private val cheap = GreaterThan(id, Literal(3))
  private val other = IsNotNull(title)

  private def guarded(guard: Option[Expression], child: LogicalPlan): LogicalPlan =
    eval(question.copy(guard = guard) -> a)(child)

  private def drop(plan: LogicalPlan): LogicalPlan = {
    val result = DropImpliedGuards(plan)
    equal(DropImpliedGuards(result) eq result, true, "idempotent")
    result
  }

  test("what a filter right below has let through is no condition any more") {
    val below = Project(Seq(id, body, title), Filter(And(cheap, yes(body)), relation))
    val isCheap = EqualNullSafe(cheap, Literal.TrueLiteral)
    samePlan(drop(guarded(Some(And(isCheap, other)), below)), guarded(Some(other), below))
    samePlan(drop(guarded(Some(isCheap), below)), guarded(None, below))
    samePlan(drop(guarded(Some(Not(EqualNullSafe(cheap, Literal.FalseLiteral))), below)),
      guarded(None, below))
  }

  test("other conditions stay") {
    Seq(
      guarded(Some(other), Filter(cheap, relation)),
      guarded(Some(cheap), Filter(Or(cheap, other), relation)),
      guarded(Some(cheap), relation)
    ).foreach(plan => equal(drop(plan) eq plan, true))
  }

  test("switched off") {
    val plan = guarded(Some(cheap), Filter(cheap, relation))
    withSetting("spark.helium.optimizer.guardConditionalCalls.enabled", "false") {
      equal(DropImpliedGuards(plan) eq plan, true)
    }
  }
}
