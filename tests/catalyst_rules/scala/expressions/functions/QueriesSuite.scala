package org.apache.spark.sql.helium.expressions.functions

import org.apache.spark.sql.catalyst.expressions._
import org.apache.spark.sql.helium.expressions._
import org.apache.spark.sql.helium.testing.FunctionSuite
import org.apache.spark.sql.types._

class QueriesSuite extends FunctionSuite {

  private val model = Literal("smollm2-135m")

  private val history = AttributeReference("history", ArrayType(
    new StructType().add("role", StringType).add("content", StringType)))()

  test("a constant is the whole prompt, and its braces are text") {
    val call = built("ai_gen")(Literal("Name {a} color"))
    equal(call.prompt, Messages(Seq(MessageTemplate("user", PromptTemplate(Seq(Text("Name {a} color")))))))
    equal(call.arguments, Nil)
  }

  test("what is put together is a template with its constants in view") {
    val call = built("ai_gen")(Concat(Seq(Literal("Review: "), body, Concat(Seq(Literal(" of "), title)))))
    equal(template(call), "Review: {0} of {1}")
    equal(call.arguments, Seq(body, title))
    val plain = LLMCallBuilder.llm(Seq(Literal("Review: {0} of {1}"), body, title))
    equal(call.semanticEquals(plain), true, "the same call as llm() makes")
  }

  test("a prompt, a conversation, a column and a number are prompts") {
    val prompt = LLMCallBuilder.prompt(Seq(Literal("Shorten {}"), body))
    equal(template(built("ai_gen")(prompt)), "Shorten {0}")
    equal(built("ai_gen")(history).prompt, ConversationColumn(0))
    equal(template(built("ai_gen")(body)), "{0}")
    equal(built("ai_gen")(id).arguments, Seq(Cast(id, StringType)))
  }

  test("arguments by position and by name, in both spellings of the model") {
    val first = built("ai_query")(model, body, Literal("STRING"), Literal(false))
    equal(first.options.failOnError, false)
    equal(built("ai_query")(named("request", body), named("endpoint", model), named("failOnError", false)), first)
    equal(built("ai_query")(named("model", model), named("request", body), named("fail_on_error", false)), first)
    equal(condition("ai_query")(model), "HELIUM_ARGUMENTS")
    equal(condition("ai_query")(model, body, named("request", body)), "HELIUM_ARGUMENTS")
    equal(condition("ai_gen")(body, body), "HELIUM_ARGUMENTS")
    equal(condition("ai_gen")(body, named("modl", model)), "HELIUM_UNKNOWN_OPTION")
    equal(condition("ai_query")(Literal("nobody"), body), "HELIUM_UNKNOWN_MODEL")
    equal(condition("ai_query")(body, body), "HELIUM_OPTION_NOT_CONSTANT")
  }

  test("model parameters are options") {
    val call = built("ai_query")(model, body,
      named("modelParameters", record("max_tokens" -> 10, "temperature" -> 0.5)))
    equal(call.options.sampling, SamplingOptions(10, 0.5))
    equal(built("ai_complete")(model, body, record("max_tokens" -> 10)).options.sampling, SamplingOptions(10))
    def parameters(value: Expression, more: Expression*) =
      condition("ai_query")(Seq(model, body, named("modelParameters", value)) ++ more: _*)
    equal(parameters(Literal("max_tokens")), "HELIUM_OPTION_TYPE")
    equal(parameters(record("max_token" -> 10)), "HELIUM_UNKNOWN_OPTION")
    equal(parameters(record("model" -> "x")), "HELIUM_UNKNOWN_OPTION")
    equal(parameters(record("max_tokens" -> 0)), "HELIUM_OPTION_OUT_OF_RANGE")
    equal(parameters(record("max_tokens" -> 9), named("max_tokens", 8)), "HELIUM_CONFLICTING_OPTIONS")
  }

  test("returnType is the type of the answer") {
    def returned(ddl: String) = built("ai_query")(model, body, Literal(ddl))
    equal(returned("STRING").dataType, StringType)
    equal(returned("STRING").options.constraint, None)
    equal(returned("INT").dataType, IntegerType)
    equal(returned("STRUCT<a: INT>").dataType, new StructType().add("a", IntegerType))
    equal(condition("ai_query")(model, body, Literal("FOO")), "HELIUM_ANSWER_SCHEMA")
  }

  test("responseFormat is the form of an answer that stays a text") {
    def formatted(text: String) = built("ai_query")(model, body, named("responseFormat", text))
    val object1 = """{"type":"object","properties":{"a":{"type":"boolean"}},"required":["a"],"additionalProperties":false}"""
    Seq(
      "STRUCT<a: BOOLEAN>",
      "STRUCT<result: STRUCT<a: BOOLEAN>>",
      object1,
      s"""{"type": "json_schema", "json_schema": {"name": "x", "schema": $object1, "strict": true}}""",
      s"""{"type": "json", "schema": $object1}""").foreach { format =>
      equal(schema(formatted(format)), object1, format)
      equal(formatted(format).dataType, StringType, format)
    }
    equal(schema(formatted("""{"type": "json_object"}""")), """{"type":"object"}""")
    equal(formatted("""{"type": "text"}""").options.constraint, None)
    def wrong(format: String) = condition("ai_query")(model, body, named("responseFormat", format))
    equal(wrong("{"), "HELIUM_ANSWER_SCHEMA")
    equal(wrong("FOO<"), "HELIUM_ANSWER_SCHEMA")
    equal(wrong("""{"type": "json_schema"}"""), "HELIUM_ANSWER_SCHEMA")
    equal(condition("ai_query")(model, body, Literal("INT"), named("responseFormat", "STRUCT<a: INT>")),
      "HELIUM_CONFLICTING_OPTIONS")
  }

  test("a system message, and one too many") {
    val call = built("ai_gen")(body, named("system", "Be brief"))
    equal(call.prompt.asInstanceOf[Messages].messages.map(_.role), Seq("system", "user"))
    equal(condition("ai_gen")(history, named("system", "Be brief")), "HELIUM_CONFLICTING_OPTIONS")
  }
}
