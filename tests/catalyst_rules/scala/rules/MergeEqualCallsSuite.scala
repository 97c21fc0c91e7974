package org.apache.spark.sql.helium.rules

import org.apache.spark.sql.catalyst.expressions._
import org.apache.spark.sql.catalyst.plans.logical._
import org.apache.spark.sql.helium.expressions.{Cascade, SamplingOptions}
import org.apache.spark.sql.helium.plans.EvalLLM
import org.apache.spark.sql.helium.testing.PlanSuite

class MergeEqualCallsSuite extends PlanSuite {

  private val first = call("Good? {0}", body)
  private val (a, b) = (answer(first), answer(first))

  test("equal calls become one, and the output stays") {
    val plan = eval(first -> a, first -> b)(relation)
    val merged = MergeEqualCalls(plan)
    samePlan(merged, Project(relation.output ++ Seq(a, Alias(a, "llm")(exprId = b.exprId)),
      eval(first.copy(multiplicity = 2) -> a)(relation)))
    equal(merged.output.map(_.exprId), plan.output.map(_.exprId))
    equal(MergeEqualCalls(merged) eq merged, true, "idempotent")
  }

  test("chains merge link by link") {
    val (whyA, whyB) = (call("Why {0}", a), call("Why {0}", b))
    val plan = eval(first -> a, first -> b, whyA -> answer(whyA), whyB -> answer(whyB))(relation)
    equal(MergeEqualCalls(plan).collect { case e: EvalLLM => e.calls.map(_.multiplicity) },
      Seq(Seq(2, 2)))
  }

  test("calls that differ in template, options or arguments stay") {
    val others = Seq(call("Bad? {0}", body), call("Good? {0}", title),
      callWith(SamplingOptions(17))("Good? {0}", body),
      first.copy(options = first.options.copy(model = "a/b")),
      first.copy(options = first.options.copy(failOnError = false)),
      first.copy(options = first.options.copy(cascade = Some(Cascade("org/small", 0.9, 0.9, 300)))),
      first.copy(options = first.options.copy(cascade = Some(Cascade("org/small", 0.9, 0.95, 300)))))
    val plan = EvalLLM(first +: others, (first +: others).map(answer), relation)
    equal(MergeEqualCalls(plan) eq plan, true)
  }

  test("calls with a temperature and no seed stay, with a seed they merge") {
    def draws(seed: Option[Long]) = {
      val draw = callWith(SamplingOptions(16, temperature = 1.0, seed = seed))("Draw {0}", body)
      eval(draw -> answer(draw), draw -> answer(draw))(relation)
    }
    val plan = draws(None)
    equal(MergeEqualCalls(plan) eq plan, true)
    equal(MergeEqualCalls(draws(Some(1))).collect { case e: EvalLLM => e.calls.size }, Seq(1))
  }

  test("down a chain, through operators that pass columns on") {
    val between = Project(Seq(body), Filter(yes(a), eval(first -> a)(relation)))
    val second = call("Bad? {0}", body)
    val c = answer(second)
    val plan = eval(first -> b, second -> c)(between)
    samePlan(MergeEqualCalls(plan),
      Project(Seq(body, Alias(a, "llm")(exprId = b.exprId), c),
        eval(second -> c)(
          Project(Seq(body, a), Filter(yes(a), eval(first -> a)(relation))))))
  }

  test("a guarded answer is not there for every row, so it is not read from below") {
    val guarded = first.copy(guard = Some(IsNotNull(title)))
    val plan = eval(first -> b)(eval(guarded -> a)(relation))
    equal(MergeEqualCalls(plan) eq plan, true)
  }

  test("equal calls with different guards run for the rows of either") {
    val (g, h) = (IsNotNull(title), GreaterThan(id, Literal(3)))
    def guarded(one: Option[Expression], other: Option[Expression]) =
      eval(first.copy(guard = one) -> a, first.copy(guard = other) -> b)(relation)
    def guards(plan: LogicalPlan) = MergeEqualCalls(plan).collect {
      case e: EvalLLM => e.calls.map(_.guard)
    }.flatten
    equal(guards(guarded(Some(g), Some(h))), Seq(Some(Or(g, h))))
    equal(guards(guarded(Some(g), None)), Seq(None))
    // A guard that reads an answer between the two cannot move to the first.
    val between = call("Why {0}?", body)
    val c = answer(between)
    val plan = eval(first.copy(guard = Some(g)) -> a, between -> c,
      first.copy(guard = Some(yes(c))) -> b)(relation)
    equal(guards(plan).size, 3)
  }

  test("equal draws stay, and say so at the end") {
    val draw = callWith(SamplingOptions(16, temperature = 1.0))("Draw {0}", body)
    val plan = eval(draw -> answer(draw), draw -> answer(draw))(relation)
    equal(MergeEqualCalls.explained(plan).collect { case e: EvalLLM => e.notes.map(_.rule) },
      Seq(Seq("MergeEqualCalls")))
  }

  test("switched off, by its own switch or by the one of all rules") {
    val plan = eval(first -> a, first -> b)(relation)
    Seq("spark.helium.optimizer.enabled", "spark.helium.optimizer.mergeEqualCalls.enabled")
      .foreach { key =>
        withSetting(key, "false")(equal(MergeEqualCalls(plan) eq plan, true, key))
      }
  }
}
