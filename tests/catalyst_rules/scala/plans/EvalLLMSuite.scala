package org.apache.spark.sql.helium.plans

import org.apache.spark.sql.catalyst.expressions._
import org.apache.spark.sql.helium.testing.PlanSuite

class EvalLLMSuite extends PlanSuite {

  private def chain(template: String): EvalLLM = {
    val first = call(template, body)
    val a = answer(first)
    val second = call("Why {0}? {1}", a, Upper(title))
    eval(first -> a, second -> answer(second))(relation)
  }

  test("equal graphs with other ids give the same result, so that an exchange can be reused") {
    equal(chain("Good? {0}").sameResult(chain("Good? {0}")), true)
    equal(chain("Good? {0}").sameResult(chain("Bad? {0}")), false)
  }

  test("which call reads which answer counts") {
    val first = call("Good? {0}", body)
    val other = call("Bad? {0}", body)
    val (a, b) = (answer(first), answer(other))
    def reading(read: Attribute): EvalLLM = {
      val third = call("Why {0}", read)
      eval(first -> a, other -> b, third -> answer(third))(relation)
    }
    equal(reading(a).sameResult(reading(b)), false)
  }

  test("the output is the input's and the answers, and rows keep their number") {
    val plan = chain("Good? {0}")
    equal(plan.output, relation.output ++ plan.answers)
    equal(plan.maxRows, relation.maxRows)
    equal(plan.missingInput.isEmpty, true)
  }
}
