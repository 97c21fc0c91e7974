package org.apache.spark.sql.helium.rules

import org.apache.spark.sql.catalyst.expressions._
import org.apache.spark.sql.catalyst.plans.logical._
import org.apache.spark.sql.helium.testing.PlanSuite

class PruneUnusedCallsSuite extends PlanSuite {

  private val first = call("Good? {0}", body)
  private val a = answer(first)
  private val second = call("Why {0}", a)
  private val b = answer(second)
  private val both = eval(first -> a, second -> b)(relation)

  private def prune(plan: LogicalPlan): LogicalPlan = {
    val result = PruneUnusedCalls(plan)
    equal(PruneUnusedCalls(result) eq result, true, "idempotent")
    result
  }

  test("a call that nobody reads goes, and the empty node with it") {
    samePlan(prune(Project(Seq(id), both)), Project(Seq(id), relation))
    samePlan(prune(Project(Seq(id, a), both)), Project(Seq(id, a), eval(first -> a)(relation)))
  }

  test("a call that another call reads stays") {
    val plan = Project(Seq(id, b), both)
    equal(prune(plan) eq plan, true)
  }

  test("through filters, sorts and limits, whose own reads count") {
    val limited = Limit(Literal(3), Filter(yes(a), both))
    samePlan(prune(Project(Seq(id), limited)),
      Project(Seq(id), Limit(Literal(3), Filter(yes(a), eval(first -> a)(relation)))))
  }

  test("down a chain of nodes") {
    val top = call("Again {0}", Upper(a))
    val t = answer(top)
    val chain = eval(top -> t)(both)
    samePlan(prune(Project(Seq(t), chain)),
      Project(Seq(t), eval(top -> t)(eval(first -> a)(relation))))
  }

  test("below an aggregate") {
    val count = Alias(Literal(1), "n")()
    samePlan(prune(Aggregate(Seq(id), Seq(id, count), both)),
      Aggregate(Seq(id), Seq(id, count), relation))
  }

  test("a node without an operator above keeps all its calls") {
    equal(prune(both) eq both, true)
  }

  test("switched off") {
    val plan = Project(Seq(id), both)
    Seq("spark.helium.optimizer.enabled", "spark.helium.optimizer.pruneUnusedCalls.enabled")
      .foreach { key =>
        withSetting(key, "false")(equal(PruneUnusedCalls(plan) eq plan, true, key))
      }
  }
}
