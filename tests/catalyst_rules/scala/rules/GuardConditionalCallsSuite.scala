package org.apache.spark.sql.helium.rules

import org.apache.spark.sql.catalyst.expressions._
import org.apache.spark.sql.catalyst.plans.logical._
import org.apache.spark.sql.helium.plans.EvalLLM
import org.apache.spark.sql.helium.testing.PlanSuite

class GuardConditionalCallsSuite extends PlanSuite {

  private val first = call("Good? {0}", body)
  private val second = call("Bad? {0}", body)
  private val (a, b) = (answer(first), answer(second))
  private val node = eval(first -> a, second -> b)(relation)
  private val cheap = GreaterThan(id, Literal(3))

  private def isTrue(e: Expression): Expression = EqualNullSafe(e, Literal.TrueLiteral)
  private def isNotTrue(e: Expression): Expression = Not(isTrue(e))
  private def isNotFalse(e: Expression): Expression = Not(EqualNullSafe(e, Literal.FalseLiteral))

  private def guards(plan: LogicalPlan): Seq[Option[Expression]] = {
    val result = GuardConditionalCalls(plan)
    equal(GuardConditionalCalls(result) eq result, true, "idempotent")
    result.collect { case e: EvalLLM => e.calls.map(_.guard) }.flatten
  }

  private def selected(expressions: Expression*): LogicalPlan =
    Project(expressions.map(Alias(_, "x")()), node)

  test("branches of CASE, in their order") {
    val other = LessThan(id, Literal(1))
    equal(guards(selected(CaseWhen(Seq(cheap -> a, other -> b), Some(title)))),
      Seq(Some(isTrue(cheap)), Some(And(isNotTrue(cheap), isTrue(other)))))
    equal(guards(selected(CaseWhen(Seq(cheap -> title), Some(a)), b)),
      Seq(Some(isNotTrue(cheap)), None))
  }

  test("a condition on the answer of an earlier call; one on a later call's is left out") {
    equal(guards(selected(CaseWhen(Seq(yes(a) -> b), None))), Seq(None, Some(isTrue(yes(a)))))
    equal(guards(selected(CaseWhen(Seq(yes(b) -> a), None))), Seq(None, None))
    equal(guards(selected(Or(yes(a), yes(b)))), Seq(None, Some(isNotTrue(yes(a)))))
  }

  test("a call that only another call reads runs where that one does") {
    val why = call("Why {0}?", a)
    val c = answer(why)
    val chain = eval(first -> a, why -> c)(relation)
    equal(guards(Project(Seq(Alias(If(cheap, c, title), "x")()), chain)),
      Seq(Some(isTrue(cheap)), Some(isTrue(cheap))))
    equal(guards(Project(Seq(Alias(If(cheap, c, a), "x")()), chain)),
      Seq(Some(Or(isNotTrue(cheap), isTrue(cheap))), Some(isTrue(cheap))))
  }

  test("a call in a condition of CASE runs when the conditions before it are not true") {
    equal(guards(selected(CaseWhen(Seq(cheap -> title, yes(a) -> body), None), b)),
      Seq(Some(isNotTrue(cheap)), None))
  }

  test("IF and COALESCE") {
    equal(guards(selected(If(cheap, a, b))), Seq(Some(isTrue(cheap)), Some(isNotTrue(cheap))))
    equal(guards(selected(Coalesce(Seq(title, a)), b)), Seq(Some(IsNull(title)), None))
  }

  test("AND and OR of a WHERE, either side") {
    def where(condition: Expression) = guards(Project(Seq(id), Filter(condition, node)))
    equal(where(Or(cheap, yes(a))).head, Some(isNotTrue(cheap)))
    equal(where(And(yes(a), cheap)).head, Some(isNotFalse(cheap)))
  }

  test("an answer that is needed anyway, or leaves as it is, has no guard") {
    equal(guards(selected(If(cheap, a, title), a, b)), Seq(None, None))
    equal(guards(Filter(Or(cheap, yes(a)), node)), Seq(None, None))
  }

  test("used in two branches: either of them") {
    val other = LessThan(id, Literal(1))
    equal(guards(selected(If(cheap, a, title), If(other, a, title), b)).head,
      Some(Or(isTrue(cheap), isTrue(other))))
  }

  test("no guard from a random number") {
    equal(guards(selected(If(LessThan(Rand(Literal(1L)), Literal(0.5)), a, title), b)),
      Seq(None, None))
  }

  test("switched off") {
    val plan = selected(If(cheap, a, b))
    Seq("spark.helium.optimizer.enabled", "spark.helium.optimizer.guardConditionalCalls.enabled")
      .foreach(key => withSetting(key, "false")(
        equal(GuardConditionalCalls(plan) eq plan, true, key)))
  }
}
