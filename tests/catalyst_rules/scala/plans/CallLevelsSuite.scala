package org.apache.spark.sql.helium.plans

import org.apache.spark.sql.catalyst.expressions._
import org.apache.spark.sql.catalyst.plans.logical.Project
import org.apache.spark.sql.helium.testing.PlanSuite

class CallLevelsSuite extends PlanSuite {

  private val first = call("Good? {0}", body)
  private val a = answer(first)

  test("a node that one call graph holds stays") {
    val second = call("Why {0}?", Concat(Seq(Literal("<"), a)))
    val node = eval(first -> a, second -> answer(second))(relation)
    equal(CallLevels.divided(node) eq node, true)
  }

  test("around an expression that is no glue, and for a guard that is none, there are two") {
    val second = call("Why {0}?", Upper(a))
    val third = call("When {0}?", title).copy(guard = Some(GreaterThan(Length(a), Literal(3))))
    val (b, c) = (answer(second), answer(third))
    samePlan(CallLevels.divided(eval(first -> a, second -> b, third -> c)(relation)),
      Project(relation.output ++ Seq(a, b, c),
        eval(second -> b, third -> c)(eval(first -> a)(relation))))
  }
}
