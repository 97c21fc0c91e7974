package org.apache.spark.sql.helium.expressions.functions

import org.apache.spark.sql.AnalysisException
import org.apache.spark.sql.catalyst.expressions._
import org.apache.spark.sql.helium.expressions._
import org.apache.spark.sql.helium.testing.PlanSuite
import org.apache.spark.sql.types._

class AggregatesSuite extends PlanSuite {

  private def build(name: String, expressions: Expression*): AIAgg =
    Aggregates.functions.find(_.name == name).get.builder(expressions).asInstanceOf[AIAgg]

  private def condition(name: String, expressions: Expression*): String =
    intercept[AnalysisException](build(name, expressions: _*)).getCondition

  private def named(name: String, value: Any): Expression = NamedArgumentExpression(name, Literal(value))

  test("arguments by position and by name") {
    val f = build("ai_agg", body, Literal("Sum up."))
    equal(build("ai_agg", NamedArgumentExpression("instruction", Literal("Sum up.")),
      NamedArgumentExpression("content", body)), f)
    equal((f.content, f.dataType, f.nullable), (body, StringType, true))
  }

  test("the instruction stands in all prompts, as it is") {
    val Unrolled(Reduce(0, false), first, further, 0, shown) =
      build("ai_agg", body, Literal("Count {x}.")).call.prompt: @unchecked
    equal(shown, Seq("Count {x}."))
    Seq(first, further).foreach { messages =>
      val Seq(MessageTemplate("user", PromptTemplate(Seq(Text(text), Slot(Unrolled.atHand))))) =
        messages: @unchecked
      equal(text.contains("Instruction: Count {x}."), true, text)
    }
  }

  test("options, and what is no option") {
    val f = build("ai_summarize_agg", body, named("max_tokens", 9), named("failOnError", false))
    equal(f.call.options.sampling.maxTokens, 9)
    equal(f.dataType, LLMCall.reportedType(StringType))
    equal(f.sql(isDistinct = true), "ai_summarize_agg(DISTINCT body, max_tokens => 9, failOnError => false)")
    equal(condition("ai_summarize_agg", body, named("choices", "a")), "HELIUM_UNKNOWN_OPTION")
  }

  test("the budget is a setting") {
    withSetting("spark.helium.agg.tokens", "100") {
      val Unrolled(program, _, _, _, _) = build("ai_summarize_agg", body).call.prompt: @unchecked
      equal(program, Reduce(100))
    }
  }

  test("what cannot be an aggregate is said at analysis") {
    equal(condition("ai_agg", body), "HELIUM_ARGUMENTS")
    equal(condition("ai_agg", body, title), "HELIUM_OPTION_NOT_CONSTANT")
    equal(condition("ai_agg", body, Literal("")), "HELIUM_OPTION_OUT_OF_RANGE")
    equal(condition("ai_agg", CreateArray(Seq(body)), Literal("x")), "HELIUM_ARGUMENT_TYPE")
  }
}
