package org.apache.spark.sql.helium.expressions.functions

import org.apache.spark.sql.AnalysisException
import org.apache.spark.sql.catalyst.expressions._
import org.apache.spark.sql.helium.expressions._
import org.apache.spark.sql.helium.testing.PlanSuite
import org.apache.spark.sql.types._

class FoldsSuite extends PlanSuite {

  private val chunks = AttributeReference("chunks", ArrayType(StringType))()

  private def build(expressions: Expression*): LLMCall =
    Folds.functions.head.builder(expressions).asInstanceOf[LLMCall]

  private def condition(expressions: Expression*): String =
    intercept[AnalysisException](build(expressions: _*)).getCondition

  test("the first template has the element, the second the answer so far and the element") {
    val call = build(chunks, Literal("a {0}"), Literal("{1} after {0}"))
    val Unrolled(Fold, Seq(first), Seq(further), 0, _) = call.prompt: @unchecked
    equal(first.content.parts, Seq(Text("a "), Slot(Unrolled.atHand)))
    equal(further.content.parts, Seq(Slot(Unrolled.atHand), Text(" after "), Slot(Unrolled.soFar)))
    equal(build(chunks, Literal("a {}"), Literal("{} {}")).prompt.slots, Seq(0))
  }

  test("arrays of what has a text") {
    val numbers = AttributeReference("numbers", ArrayType(IntegerType, containsNull = false))()
    equal(build(numbers, Literal("{0}"), Literal("{0} {1}")).arguments,
      Seq(Cast(numbers, ArrayType(StringType, containsNull = false))))
    equal(condition(body, Literal("{0}"), Literal("{0} {1}")), "HELIUM_OPTION_TYPE")
  }

  test("other placeholders are refused") {
    equal(condition(chunks, Literal("a"), Literal("{0} {1}")), "HELIUM_TEMPLATE_ARGUMENTS")
    equal(condition(chunks, Literal("{0} {1}"), Literal("{0} {1}")), "HELIUM_TEMPLATE_ARGUMENTS")
    equal(condition(chunks, Literal("{0}"), Literal("{1}")), "HELIUM_TEMPLATE_ARGUMENTS")
    equal(condition(chunks, Literal("{a}"), Literal("{0} {1}")), "HELIUM_TEMPLATE_ARGUMENTS")
    equal(condition(chunks, Literal("{"), Literal("{0} {1}")), "HELIUM_TEMPLATE_SYNTAX")
    equal(condition(chunks, body, Literal("{0} {1}")), "HELIUM_TEMPLATE_NOT_CONSTANT")
  }
}
