package org.apache.spark.sql.helium.rules

import org.apache.spark.sql.catalyst.InternalRow
import org.apache.spark.sql.catalyst.expressions._
import org.apache.spark.sql.catalyst.plans.{Inner, LeftOuter}
import org.apache.spark.sql.catalyst.plans.logical._
import org.apache.spark.sql.helium.expressions.{Cascade, SamplingOptions}
import org.apache.spark.sql.helium.plans.{CallLevels, EvalLLM, Pace, SharedCalls}
import org.apache.spark.sql.helium.statistics.QueryEstimate
import org.apache.spark.sql.helium.testing.PlanSuite
import org.apache.spark.sql.types.StringType

class PaceForLimitSuite extends PlanSuite {

  override protected lazy val relation: LogicalPlan = LocalRelation(
    Seq(id, body, title), Seq.fill(1000)(InternalRow(1, null, null)))

  private val question = call("{0}?", body)
  private val a = answer(question)
  private val asked = eval(question -> a)(relation)
  private val kept = Filter(yes(a), asked)

  private def local(rows: Int, child: LogicalPlan): LogicalPlan = LocalLimit(Literal(rows), child)

  private def limit(rows: Int, child: LogicalPlan): LogicalPlan = GlobalLimit(Literal(rows), local(rows, child))

  private def nodes(plan: LogicalPlan): Seq[EvalLLM] = {
    val result = PaceForLimit(plan)
    equal(PaceForLimit(result), result, "idempotent")
    result.collect { case node: EvalLLM => node }
  }

  /** What the node closest to the top asks first. */
  private def pace(plan: LogicalPlan): Option[Pace] = nodes(plan).head.pace

  private def reasons(plan: LogicalPlan): Seq[String] = nodes(plan).flatMap(_.notes.map(_.text))

  private def python(children: Expression*): PythonUDF =
    PythonUDF("f", null, StringType, children, evalType = 100, udfDeterministic = true)

  test("a limit over a filter by the answer, whatever columns there are between") {
    equal(pace(limit(10, kept)), Some(Pace(10, 20)))
    equal(pace(limit(3, Project(Seq(id), Filter(Like(title, Literal("x%"), '\\'), kept)))), Some(Pace(3, 16)))
    equal(pace(limit(Int.MaxValue, kept)), None) // more than there are
    equal(Pace(Int.MaxValue, dropping = true).first, Int.MaxValue)
    equal(Pace(10, 20).toString, "asks 20 rows first, as only 10 are wanted")
  }

  test("a limit that takes every row, as over a draw") {
    val drawn = callWith(SamplingOptions(16, temperature = 1.0))("{0}?", body)
    equal(pace(limit(10, Project(Seq(id), eval(drawn -> answer(drawn))(relation)))), Some(Pace(10, 10)))
  }

  test("of two limits the smaller counts; an offset is in what each task takes") {
    equal(pace(local(30, Project(Seq(id), local(40, kept)))), Some(Pace(30, 60)))
    equal(pace(local(40, Filter(IsNotNull(id), local(30, asked)))), Some(Pace(30, 30)))
    equal(pace(GlobalLimit(Literal(5), Offset(Literal(20), local(25, kept)))), Some(Pace(25, 50)))
  }

  test("not where all rows are read") {
    val order = Seq(SortOrder(id, Ascending))
    val other = LocalRelation(AttributeReference("key", id.dataType)())
    Seq[LogicalPlan => LogicalPlan](
      Sort(order, global = true, _), Sort(order, global = false, _), Aggregate(Seq(id), Seq(id), _),
      Repartition(3, shuffle = true, _), SharedCalls(_), Join(_, other, Inner, None, JoinHint.NONE),
      Join(_, other, LeftOuter, None, JoinHint.NONE)
    ).foreach { reading =>
      equal(pace(limit(10, reading(kept))), None)
      equal(reasons(limit(10, reading(kept))), Nil)
      equal(pace(reading(local(10, kept))), Some(Pace(10, 20)))
    }
    // Without a limit in each task the other tasks read all of their rows into an exchange.
    equal(pace(GlobalLimit(Literal(10), kept)), None)
    equal(pace(Offset(Literal(10), kept)), None)
    equal(pace(kept), None)
  }

  test("not where the rows are few, or a limit below says so") {
    equal(pace(limit(500, kept)), None)
    equal(pace(limit(10, Filter(yes(a), eval(question -> a)(limit(20, relation))))), None)
  }

  test("of stacked nodes the top one") {
    val why = call("Why {0}?", Upper(a))
    val chain = limit(10, Filter(yes(answer(why)), eval(why -> answer(why))(kept)))
    equal(nodes(chain).map(_.pace), Seq(Some(Pace(10, 20)), None))
    equal(reasons(chain), Seq("the calls above read its rows ahead"))
    val together = eval(question -> a, why -> answer(why))(relation)
    val Project(_, upper @ EvalLLM(_, _, lower: EvalLLM, _, _)) =
      CallLevels.divided(together.copy(pace = Some(Pace(10, 20)))): @unchecked
    equal(Seq(upper.pace, lower.pace), Seq(Some(Pace(10, 20)), None))
  }

  test("declines below Python functions and subqueries, and for a cascade") {
    Seq(Filter(yes(python(a)), asked), Project(Seq(Alias(python(a), "f")()), kept)).foreach { plan =>
      equal(pace(limit(10, plan)), None)
      equal(reasons(limit(10, plan)), Seq("a Python function above reads its rows ahead"))
    }
    val one = LocalRelation(AttributeReference("x", StringType)())
    equal(reasons(limit(10, Filter(EqualTo(a, ScalarSubquery(one)), asked))),
      Seq("a subquery stands between it and the limit"))
    val unsure = question.copy(options = question.options.copy(cascade = Some(Cascade("small", 0.9, 0.9, 100))))
    val cascade = limit(10, Filter(yes(a), eval(unsure -> a)(relation)))
    equal(pace(cascade), None)
    equal(reasons(cascade), Seq("a cascade needs whole windows of rows"))
  }

  test("the pace tells nodes apart in nothing, survives notes, and goes with its limit") {
    val paced = asked.copy(pace = Some(Pace(10, 20)))
    equal(paced.sameResult(asked), true)
    equal(PaceForLimit(Filter(yes(a), paced)), kept)
    equal(PushThroughEvalLLM.explained(PaceForLimit(limit(10, kept))).collect { case n: EvalLLM => n.pace },
      Seq(Some(Pace(10, 20))))
  }

  test("what is expected is a guess then") {
    equal(QueryEstimate.of(kept).calls.measured, true)
    equal(QueryEstimate.of(PaceForLimit(limit(10, kept))).calls.measured, false)
  }

  test("switched off") {
    withSetting("spark.helium.optimizer.paceForLimit.enabled", "false") {
      val plan = limit(10, kept)
      equal(PaceForLimit(plan) eq plan, true)
    }
  }
}
