package org.apache.spark.sql.helium.rules

import org.apache.spark.sql.catalyst.expressions._
import org.apache.spark.sql.catalyst.plans.logical._
import org.apache.spark.sql.helium.expressions.SamplingOptions
import org.apache.spark.sql.helium.plans.SharedCalls
import org.apache.spark.sql.helium.testing.PlanSuite

class MaterializeDrawsSuite extends PlanSuite {

  private val draw = callWith(SamplingOptions(16, temperature = 1.0))("Draw {0}", body)
  private val a = answer(draw)
  private val order = Seq(SortOrder(a, Ascending))

  test("draws below a global sort are kept in an exchange, once") {
    val plan = Sort(order, global = true, eval(draw -> a)(relation))
    val expected = Sort(order, global = true, SharedCalls(eval(draw -> a)(relation)))
    samePlan(MaterializeDraws(plan), expected)
    equal(MaterializeDraws(expected) eq expected, true)
  }

  test("a local sort, and calls that give the same again, are left alone") {
    val local = Sort(order, global = false, eval(draw -> a)(relation))
    equal(MaterializeDraws(local) eq local, true)
    val greedy = call("Good? {0}", body)
    val again = Sort(order, global = true, eval(greedy -> a)(relation))
    equal(MaterializeDraws(again) eq again, true)
  }
}
