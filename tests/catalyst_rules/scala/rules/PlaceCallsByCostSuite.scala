package org.apache.spark.sql.helium.rules

import org.apache.spark.sql.catalyst.InternalRow
import org.apache.spark.sql.catalyst.expressions._
import org.apache.spark.sql.catalyst.plans._
import org.apache.spark.sql.catalyst.plans.logical._
import org.apache.spark.sql.helium.plans.EvalLLM
import org.apache.spark.sql.helium.testing.PlanSuite
import org.apache.spark.sql.types._
import org.apache.spark.unsafe.types.UTF8String

class PlaceCallsByCostSuite extends PlanSuite {

  private val key = AttributeReference("key", IntegerType)()

  private def rows(n: Int, keys: Int): LocalRelation = LocalRelation(Seq(id, body, title),
    (0 until n).map(i => InternalRow(i % keys, UTF8String.fromString(s"text $i"), null)))

  private def others(n: Int, keys: Int): LocalRelation =
    LocalRelation(Seq(key), (0 until n).map(i => InternalRow(i % keys)))

  private val question = call("Good? {0}", body)
  private val a = answer(question)
  private val on = Some(EqualTo(id, key))

  private def join(left: LogicalPlan, right: LogicalPlan, joinType: JoinType = Inner): Join =
    Join(left, right, joinType, on, JoinHint.NONE)

  private def place(plan: LogicalPlan): LogicalPlan = {
    val result = PlaceCallsByCost(plan)
    equal(result.output.map(_.exprId), plan.output.map(_.exprId), "the output must stay")
    result
  }

  test("above a join that keeps few rows, on either side, with the filter that reads it") {
    val (many, few) = (rows(100, 100), others(5, 5))
    samePlan(place(join(eval(question -> a)(many), few)),
      Project(many.output ++ Seq(a, key), eval(question -> a)(join(many, few))))
    samePlan(place(join(Filter(yes(a), eval(question -> a)(many)), few)),
      Project(many.output ++ Seq(a, key), Filter(yes(a), eval(question -> a)(join(many, few)))))
    val right = Join(few, eval(question -> a)(many), Inner, on, JoinHint.NONE)
    samePlan(place(right), Project(Seq(key) ++ many.output :+ a,
      eval(question -> a)(Join(few, many, Inner, on, JoinHint.NONE))))
  }

  test("without statistics half of the rows are taken to find a partner") {
    val unknown = Project(Seq(id, body, title), Generate(
      Explode(CreateArray(Seq(Literal(1)))), Nil, outer = false, None,
      Seq(AttributeReference("x", IntegerType)()), rows(10, 10)))
    val result = place(join(eval(question -> a)(unknown), others(5, 5)))
    equal(result.children.head.isInstanceOf[EvalLLM], true, result.toString)
  }

  test("not above a join that keeps all rows or more, and the reason says so") {
    val plan = join(eval(question -> a)(rows(10, 10)), others(1000, 10))
    val result = place(plan)
    samePlan(withoutNotes(result), plan)
    equal(result.collect { case n: EvalLLM => n.notes }.flatten.map(_.rule), Seq("PlaceCallsByCost"))
  }

  test("what the join condition reads stays; calls that it does not read go up") {
    val other = call("Why {0}?", title)
    val b = answer(other)
    val many = rows(100, 100)
    val condition = Some(And(EqualTo(id, key), yes(a)))
    val plan = Join(eval(question -> a, other -> b)(many), others(5, 5), Inner, condition,
      JoinHint.NONE)
    samePlan(place(plan), Project(many.output ++ Seq(a, b, key), eval(other -> b)(
      Join(eval(question -> a)(many), others(5, 5), Inner, condition, JoinHint.NONE))))
  }

  test("both sides of an outer join stay") {
    Seq(LeftOuter, RightOuter, FullOuter).foreach { joinType =>
      val plan = join(eval(question -> a)(rows(100, 100)), others(5, 5), joinType)
      samePlan(withoutNotes(place(plan)), plan)
    }
  }

  test("below an outer join that repeats rows; below an inner one for rows with a partner") {
    val (few, many) = (rows(10, 10), others(1000, 10))
    samePlan(place(eval(question -> a)(join(few, many, LeftOuter))),
      Project(few.output ++ Seq(key, a), join(eval(question -> a)(few), many, LeftOuter)))
    val inner = place(eval(question -> a)(join(few, many)))
    val semis = inner.collect {
      case EvalLLM(_, _, Join(_, _, LeftSemi, Some(_), _), _, _) => true
    }
    equal(semis, Seq(true), inner.toString)
  }

  test("below explode, guarded by there being something") {
    val array = CreateArray(Seq(id))
    val plan = eval(question -> a)(Generate(Explode(array), Nil, outer = false, None, Seq(key),
      rows(10, 10)))
    val guard = GreaterThan(Size(array, legacySizeOfNull = false), Literal(0))
    samePlan(place(plan), Project(plan.output, Generate(Explode(array), Nil, outer = false, None,
      Seq(key), eval(question.copy(guard = Some(guard)) -> a)(rows(10, 10)))))
  }

  test("switched off") {
    val plan = join(eval(question -> a)(rows(100, 100)), others(5, 5))
    withSetting("spark.helium.optimizer.placeCallsByCost.enabled", "false") {
      equal(PlaceCallsByCost(plan) eq plan, true)
    }
  }
}
