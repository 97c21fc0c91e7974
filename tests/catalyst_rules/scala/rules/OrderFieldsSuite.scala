package org.apache.spark.sql.helium.rules

import org.apache.spark.sql.catalyst.InternalRow
import org.apache.spark.sql.catalyst.plans.logical._
import org.apache.spark.sql.helium.expressions._
import org.apache.spark.sql.helium.plans.EvalLLM
import org.apache.spark.sql.helium.testing.PlanSuite
import org.apache.spark.unsafe.types.UTF8String

class OrderFieldsSuite extends PlanSuite {

  private def rows(titles: Int): LocalRelation = LocalRelation(Seq(id, body, title), (0 until 20).map(i =>
    InternalRow(i, UTF8String.fromString(s"a long text $i"), UTF8String.fromString(s"t${i % titles}"))))

  private val record = call("{0}{1}", body, title)

  private def ask(fields: Fields): LLMCall = record.copy(prompt = Messages(Seq(
    MessageTemplate("user", PromptTemplate(Seq(Text("Good?\n"), fields))))))

  private val written = ask(Fields(Seq("body" -> 0, "title" -> 1)))
  private val turned = ask(Fields(Seq("title" -> 0, "body" -> 1))).copy(arguments = Seq(title, body))
  private val a = answer(written)

  private def order(plan: LogicalPlan): LogicalPlan = {
    val result = OrderFields(plan)
    equal(OrderFields(result), result, "idempotent")
    result
  }

  test("the field that repeats comes first, its argument too") {
    samePlan(order(eval(written -> a)(rows(2))), eval(turned -> a)(rows(2)))
    order(eval(written -> a)(rows(2))) match {
      case EvalLLM(Seq(after), _, _, _) => equal(after.arguments, Seq(title, body))
      case other => throw new AssertionError(other.toString)
    }
  }

  test("among equals the order as written wins") {
    val node = eval(written -> a)(rows(20))
    samePlan(order(node), node)
  }

  test("not without statistics, and not for a template whose order the user wrote") {
    val unknown = Filter(yes(title), Generate(
      org.apache.spark.sql.catalyst.expressions.Explode(
        org.apache.spark.sql.catalyst.expressions.CreateArray(Seq(id))), Nil, outer = false, None,
      Seq(answer(written)), rows(2)))
    val node = eval(written -> a)(unknown)
    samePlan(withoutNotes(order(node)), node)
    val fixed = eval(record -> a)(rows(2))
    equal(order(fixed) eq fixed, true)
  }

  test("switched off") {
    val node = eval(written -> a)(rows(2))
    withSetting("spark.helium.optimizer.orderFields.enabled", "false") {
      equal(OrderFields(node) eq node, true)
    }
  }
}
