package org.apache.spark.sql.helium.expressions

import org.apache.spark.sql.AnalysisException
import org.apache.spark.sql.catalyst.expressions._
import org.apache.spark.sql.helium.testing.PlanSuite
import org.apache.spark.sql.types._

class LLMCallBuilderSuite extends PlanSuite {

  private def named(name: String, value: Any): Expression =
    NamedArgumentExpression(name, Literal(value))

  private def build(expressions: Expression*): LLMCall =
    LLMCallBuilder.llm(expressions).asInstanceOf[LLMCall]

  private def condition(expressions: Expression*): String =
    intercept[AnalysisException](LLMCallBuilder.llm(expressions)).getCondition

  private def array(values: String*): Expression = CreateArray(values.map(Literal(_)))

  private def message(role: Expression, content: Expression): Expression =
    CreateNamedStruct(Seq(Literal("role"), role, Literal("content"), content))

  test("the forms of placeholders give equal calls") {
    val first = build(Literal("{} {}"), body, title)
    equal(build(Literal("{0} {1}"), body, title), first)
    equal(build(Literal("{1} {0}"), title, body), first)
    equal(build(Literal("{a} {b}"), body, title), first)
    equal(build(Literal("{a} {b}"), NamedArgumentExpression("b", title),
      NamedArgumentExpression("a", body)), first)
    equal(build(Literal("{a} {b}"), NamedArgumentExpression("a", body), title), first)
  }

  test("an argument given twice is one argument") {
    equal(build(Literal("{} {}"), body, body).arguments, Seq(body))
  }

  test("options that are written or left out compare equal, and print as written") {
    val plain = build(Literal("{}"), body)
    val written = build(Literal("{}"), body, named("temperature", 0.0), named("max_tokens", 256))
    equal(plain.semanticEquals(written), true)
    equal(plain.sql, "llm('{0}', body)")
    equal(written.sql, "llm('{0}', body, max_tokens => 256)")
  }

  test("numbers, dates and booleans become text; other types do not") {
    equal(build(Literal("{}"), id).arguments, Seq(Cast(id, StringType)))
    equal(condition(Literal("{}"), CreateArray(Seq(id))), "HELIUM_ARGUMENT_TYPE")
    equal(condition(Literal("{}"), Literal(Array[Byte](1))), "HELIUM_ARGUMENT_TYPE")
  }

  test("template and arguments must agree") {
    equal(condition(), "HELIUM_TEMPLATE_ARGUMENTS")
    equal(condition(Literal("{}")), "HELIUM_TEMPLATE_ARGUMENTS")
    equal(condition(Literal("{}"), body, title), "HELIUM_TEMPLATE_ARGUMENTS")
    equal(condition(Literal("{1}"), body, title), "HELIUM_TEMPLATE_ARGUMENTS")
    equal(condition(Literal("hello"), body), "HELIUM_TEMPLATE_ARGUMENTS")
    equal(condition(body), "HELIUM_TEMPLATE_NOT_CONSTANT")
    equal(condition(Literal("{"), body), "HELIUM_TEMPLATE_SYNTAX")
  }

  test("options are checked by name, type and range") {
    def option(name: String, value: Any) = condition(Literal("{}"), body, named(name, value))
    equal(option("max_token", 3), "HELIUM_UNKNOWN_OPTION")
    equal(option("max_tokens", 0), "HELIUM_OPTION_OUT_OF_RANGE")
    equal(option("max_tokens", "3"), "HELIUM_OPTION_TYPE")
    equal(option("temperature", 2.5), "HELIUM_OPTION_OUT_OF_RANGE")
    equal(option("top_p", 0.0), "HELIUM_OPTION_OUT_OF_RANGE")
    equal(option("seed", -1), "HELIUM_OPTION_OUT_OF_RANGE")
    equal(option("model", "gpt"), "HELIUM_UNKNOWN_MODEL")
    equal(option("regex", "("), "HELIUM_OPTION_OUT_OF_RANGE")
    equal(option("response_schema", "a FOO"), "HELIUM_ANSWER_SCHEMA")
    equal(condition(Literal("{}"), body, NamedArgumentExpression("max_tokens", id)),
      "HELIUM_OPTION_NOT_CONSTANT")
    equal(condition(Literal("{}"), body, NamedArgumentExpression("choices", array("a", "a"))),
      "HELIUM_OPTION_OUT_OF_RANGE")
    equal(condition(Literal("{}"), body, NamedArgumentExpression("choices", array("a", "b")),
      named("regex", "a+")), "HELIUM_CONFLICTING_OPTIONS")
    equal(condition(Literal("{}"), body, named("max_tokens", 3), named("maxTokens", 4)),
      "HELIUM_CONFLICTING_OPTIONS")
  }

  test("spellings of failOnError, and its type") {
    Seq("failOnError", "fail_on_error", "FAILONERROR").foreach { name =>
      val call = build(Literal("{}"), body, named(name, false))
      equal(call.dataType, new StructType().add("response", StringType)
        .add("errorMessage", StringType), name)
    }
  }

  test("a conversation that is written out stays visible") {
    val prompt = LLMCallBuilder.prompt(Seq(Literal("Shorten {} to {}"), body, id))
    val call = build(CreateArray(Seq(
      message(Literal("system"), Literal("Be {brief}")),
      message(Literal("user"), prompt),
      message(Literal("assistant"), title),
      message(Literal("user"), body))))
    equal(call.prompt, Messages(Seq(
      MessageTemplate("system", PromptTemplate(Seq(Text("Be {brief}")))),
      MessageTemplate("user",
        PromptTemplate(Seq(Text("Shorten "), Slot(0), Text(" to "), Slot(1)))),
      MessageTemplate("assistant", PromptTemplate(Seq(Slot(2)))),
      MessageTemplate("user", PromptTemplate(Seq(Slot(0)))))))
    equal(call.arguments, Seq(body, Cast(id, StringType), title))
  }

  test("a conversation that is a column is one argument") {
    val history = AttributeReference("history", ArrayType(
      new StructType().add("role", StringType).add("content", StringType)))()
    equal(build(history).prompt, ConversationColumn(0))
    equal(condition(AttributeReference("a", ArrayType(StringType))()), "HELIUM_CONVERSATION")
    equal(condition(history, named("system", "x")), "HELIUM_CONFLICTING_OPTIONS")
    equal(condition(CreateArray(Seq(message(Literal("boss"), body)))), "HELIUM_CONVERSATION")
  }

  test("a temperature without a seed is not deterministic") {
    equal(build(Literal("{}"), body, named("temperature", 0.7)).deterministic, false)
    equal(build(Literal("{}"), body, named("temperature", 0.7), named("seed", 1)).deterministic,
      true)
  }
}
