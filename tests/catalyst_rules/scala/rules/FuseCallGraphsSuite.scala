package org.apache.spark.sql.helium.rules

import org.apache.spark.sql.catalyst.expressions._
import org.apache.spark.sql.catalyst.plans.logical._
import org.apache.spark.sql.helium.testing.PlanSuite

class FuseCallGraphsSuite extends PlanSuite {

  private val first = call("Good? {0}", body)
  private val a = answer(first)
  private val lower = eval(first -> a)(relation)
  private val glued = Alias(Concat(Seq(Literal("<"), a)), "g")()

  private def fuse(plan: LogicalPlan): LogicalPlan = {
    val result = FuseCallGraphs(plan)
    equal(FuseCallGraphs(result), result, "idempotent")
    equal(result.output.map(_.exprId), plan.output.map(_.exprId), "the output must stay")
    result
  }

  test("string glue between two calls") {
    val second = call("Why {0}?", glued.toAttribute)
    val b = answer(second)
    val fused = call("Why {0}?", glued.child)
    samePlan(fuse(eval(second -> b)(Project(Seq(id, glued), lower))),
      Project(Seq(id, glued, b), eval(first -> a, fused -> b)(relation)))
  }

  test("a filter between two calls becomes a guard and stays above") {
    val second = call("Why {0}?", title)
    val b = answer(second)
    samePlan(fuse(eval(second -> b)(Filter(yes(a), lower))),
      Filter(yes(a), eval(first -> a, second.copy(guard = Some(yes(a))) -> b)(relation)))
    val early = eval(second -> b)(Filter(yes(a), lower))
    equal(FuseAdjacentCallGraphs(early) eq early, true)
  }

  test("filters and projections in turns become one of each") {
    val named = Alias(a, "first")()
    val second = call("Why {0}?", title)
    val b = answer(second)
    val third = call("When {0}?", title)
    val c = answer(third)
    val plan = eval(third -> c)(Filter(yes(b), eval(second -> b)(
      Filter(yes(named.toAttribute), Project(Seq(id, title, named), lower)))))
    samePlan(fuse(plan), Project(Seq(id, title, named, b, c),
      Filter(And(yes(a), yes(b)), eval(first -> a,
        second.copy(guard = Some(yes(a))) -> b,
        third.copy(guard = Some(And(yes(a), yes(b)))) -> c)(relation))))
  }

  test("a column that costs something is computed once") {
    val loud = Alias(Upper(body), "loud")()
    val twice = Seq("x", "y").map(n => Alias(Concat(Seq(loud.toAttribute, Literal(n))), n)())
    val second = call("Why {0}?", a)
    val b = answer(second)
    samePlan(fuse(eval(second -> b)(Project(twice, Project(Seq(a, loud), lower)))),
      Project(twice :+ b, Project(Seq(a, loud, b), eval(first -> a, second -> b)(relation))))
    val filtered = eval(second -> b)(Filter(yes(loud.toAttribute), Project(Seq(a, loud), lower)))
    samePlan(fuse(filtered), Filter(yes(loud.toAttribute), Project(Seq(a, loud, b),
      eval(first -> a, second.copy(guard = Some(yes(loud.child))) -> b)(relation))))
  }

  test("three nodes become one") {
    val second = call("Why {0}?", a)
    val b = answer(second)
    val third = call("{0} {1}", a, b)
    val c = answer(third)
    samePlan(fuse(eval(third -> c)(eval(second -> b)(lower))),
      eval(first -> a, second -> b, third -> c)(relation))
  }

  test("what is no glue stays between two nodes, with the reason; other calls go down") {
    val loud = call("Why {0}?", Upper(a))
    val plain = call("When {0}?", a)
    val (b, c) = (answer(loud), answer(plain))
    val result = fuse(eval(loud -> b, plain -> c)(lower))
    samePlan(withoutNotes(result), Project(relation.output ++ Seq(a, b, c),
      eval(loud -> b)(eval(first -> a, plain -> c)(relation))))
    val refused = fuse(eval(loud -> b)(lower))
    equal(refused.collect { case n: org.apache.spark.sql.helium.plans.EvalLLM => n.notes }
      .flatten.map(_.applied), Seq(false))
  }

  test("not across what is not deterministic, a limit, or a condition for Spark") {
    val second = call("Why {0}?", title)
    val b = answer(second)
    Seq(
      Filter(LessThan(Rand(Literal(1L)), Literal(0.5)), lower),
      LocalLimit(Literal(3), lower),
      Filter(GreaterThan(Length(a), Literal(3)), lower)
    ).foreach { between =>
      val plan = eval(second -> b)(between)
      samePlan(withoutNotes(fuse(plan)), plan)
    }
  }

  test("switched off") {
    val second = call("Why {0}?", a)
    val plan = eval(second -> answer(second))(lower)
    withSetting("spark.helium.optimizer.fuseCallGraphs.enabled", "false") {
      equal(FuseCallGraphs(plan) eq plan, true)
    }
  }
}
