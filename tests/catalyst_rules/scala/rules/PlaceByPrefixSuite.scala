package org.apache.spark.sql.helium.rules

import org.apache.spark.sql.catalyst.InternalRow
import org.apache.spark.sql.catalyst.expressions._
import org.apache.spark.sql.catalyst.plans.logical._
import org.apache.spark.sql.helium.testing.PlanSuite

class PlaceByPrefixSuite extends PlanSuite {

  // An empty relation has nothing to place.
  override protected lazy val relation: LogicalPlan = LocalRelation(
    Seq(id, body, title), Seq.fill(3)(InternalRow(1, null, null)))

  private val question = call("{0}: {1}?", title, body)
  private val a = answer(question)

  private def placed(plan: LogicalPlan, engines: Int = 4): LogicalPlan =
    withSetting("spark.helium.cluster.engines", engines.toString) {
      val result = PlaceByPrefix(plan)
      equal(PlaceByPrefix(result), result, "idempotent")
      result
    }

  private def ascending(attributes: Attribute*): Seq[SortOrder] =
    attributes.map(SortOrder(_, Ascending))

  test("ranges of the inputs in the order of the prompt") {
    samePlan(placed(eval(question -> a)(relation)), eval(question -> a)(
      RepartitionByExpression(ascending(title, body), relation, Some(4))))
  }

  test("an order that the query asks for stays, and decides on the ranges") {
    val sort = Sort(ascending(id), global = true, relation)
    samePlan(placed(eval(question -> a)(sort)), eval(question -> a)(
      sort.copy(child = RepartitionByExpression(ascending(id), relation, Some(4)))))
    val limited = GlobalLimit(Literal(5), LocalLimit(Literal(5), sort))
    samePlan(placed(eval(question -> a)(limited)), eval(question -> a)(
      Sort(ascending(id), global = true,
        RepartitionByExpression(ascending(id), limited, Some(4)))))
  }

  test("not for one engine, above calls, or where the query repartitions itself") {
    Seq(1 -> relation, 4 -> RepartitionByExpression(Seq(id), relation, Some(9)),
      4 -> Repartition(3, shuffle = false, relation)).foreach { case (engines, child) =>
      val node = eval(question -> a)(child)
      samePlan(withoutNotes(placed(node, engines)), node)
    }
    val why = call("Why {0}?", Upper(a))
    val chain = eval(why -> answer(why))(eval(question -> a)(relation))
    equal(placed(chain).collect { case r: RepartitionByExpression => r }.size, 1)
  }

  test("switched off") {
    val node = eval(question -> a)(relation)
    withSetting("spark.helium.optimizer.placeByPrefix.enabled", "false") {
      equal(PlaceByPrefix(node) eq node, true)
    }
  }
}
