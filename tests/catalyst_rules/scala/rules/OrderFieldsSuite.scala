package org.apache.spark.sql.helium.rules

import org.apache.spark.sql.catalyst.InternalRow
import org.apache.spark.sql.catalyst.expressions._
import org.apache.spark.sql.catalyst.plans.Inner
import org.apache.spark.sql.catalyst.plans.logical._
import org.apache.spark.sql.helium.RuleTrace
import org.apache.spark.sql.helium.expressions._
import org.apache.spark.sql.helium.plans.EvalLLM
import org.apache.spark.sql.helium.testing.PlanSuite
import org.apache.spark.unsafe.types.UTF8String

class OrderFieldsSuite extends PlanSuite {

  private def rows(titles: Int): LocalRelation = LocalRelation(Seq(id, body, title), (0 until 20).map(i =>
    InternalRow(i, UTF8String.fromString(s"a long text $i"), UTF8String.fromString(s"t${i % titles}"))))

  private def ask(fields: Seq[Int], template: String = "{0}"): LLMCall =
    call(template, JsonRecord(Seq("body" -> body, "title" -> title)).withTimeZone("UTC").copy(order = FixedOrder(fields)))

  private val written = ask(Seq(0, 1))
  private val turned = ask(Seq(1, 0))
  private val a = answer(written)

  private def order(plan: LogicalPlan): LogicalPlan = {
    val result = OrderFields(plan)
    equal(OrderFields(result), result, "idempotent")
    result
  }

  test("the field that repeats comes first, by the rows of local data") {
    samePlan(order(eval(written -> a)(rows(2))), eval(turned -> a)(rows(2)))
    val (_, notes) = RuleTrace.collecting(OrderFields(eval(written -> a)(rows(2))))
    equal(notes.map(_.text), Seq("order title, body (of the characters of a sample of 20 rows, 32 % are in shared " +
      "prefixes, 0 % as written)"))
  }

  test("through operators that only move rows, and joins of another side") {
    val child = Sort(Seq(SortOrder(id, Ascending)), global = true,
      Join(rows(2), Range(0, 3, 1, None), Inner, None, JoinHint.NONE))
    samePlan(order(eval(written -> a)(child)), eval(turned -> a)(child))
  }

  test("a prompt has one order in all places, that of the first one with rows") {
    val other = LocalRelation(rows(20).output, Nil)
    val union = Union(Seq(eval(written -> a)(other), eval(written -> a)(rows(2))))
    OrderFields(union) match {
      case Union(Seq(EvalLLM(Seq(first), _, _, _, _), EvalLLM(Seq(second), _, _, _, _)), _, _) =>
        equal(first, turned)
        equal(second, turned)
      case plan => throw new AssertionError(plan.toString)
    }
  }

  test("not where another call's answer is a field, nor a draw") {
    val asked = answer(written)
    val reads = call("{0}", JsonRecord(Seq("body" -> body, "told" -> asked)).withTimeZone("UTC"))
    val node = eval(call("Sum up {0}", body) -> asked, reads -> answer(reads))(rows(2))
    samePlan(withoutNotes(order(node)), node)
    val drawn = call("{0}", JsonRecord(Seq("body" -> body, "draw" -> Rand(Literal(1L)))).withTimeZone("UTC"))
    val draws = eval(drawn -> answer(drawn))(rows(2))
    samePlan(withoutNotes(order(draws)), draws)
  }

  test("among equals the order as written wins") {
    val node = eval(written -> a)(rows(20))
    samePlan(withoutNotes(order(node)), node)
  }

  test("not without rows and statistics, and not for a template whose order the user wrote") {
    val generated = answer(written)
    val unknown = Filter(yes(generated), Generate(
      Explode(CreateArray(Seq(id))), Nil, outer = false, None, Seq(generated), rows(2)))
    val node = eval(written -> a)(unknown)
    samePlan(withoutNotes(order(node)), node)
    val fixed = eval(call("{0}{1}", body, title) -> a)(rows(2))
    equal(order(fixed) eq fixed, true)
  }

  test("switched off") {
    val node = eval(written -> a)(rows(2))
    withSetting("spark.helium.optimizer.orderFields.enabled", "false") {
      equal(OrderFields(node) eq node, true)
    }
  }
}
