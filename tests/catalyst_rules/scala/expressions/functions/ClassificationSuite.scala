package org.apache.spark.sql.helium.expressions.functions

import org.apache.spark.sql.catalyst.expressions._
import org.apache.spark.sql.helium.expressions._
import org.apache.spark.sql.helium.testing.FunctionSuite
import org.apache.spark.sql.types._

class ClassificationSuite extends FunctionSuite {

  private def filter(arguments: Expression*): LLMCall = expression("ai_filter")(arguments: _*) match {
    case EqualTo(call: LLMCall, Literal(value, StringType)) if value.toString == "true" => call
    case other => throw new AssertionError(s"no comparison with true: $other")
  }

  test("labels are the choices, and the content comes last") {
    val call = built("ai_classify")(body, strings("good", "bad"))
    equal(call.options.constraint, Some(Choices(Seq("good", "bad"))))
    equal(call.dataType, StringType)
    equal(template(call),
      "Classify the text with one of these labels: good, bad.\nAnswer with the label alone.\n\nText: {0}")
  }

  test("descriptions and instructions are shown to the model") {
    val map = CreateMap(Seq(Literal("a"), Literal("first"), Literal("b"), Literal("second")))
    val structs = CreateArray(Seq(record("label" -> "a", "description" -> "first"),
      record("label" -> "b", "description" -> "second")))
    val json = Literal("""{"a": "first", "b": "second"}""")
    Seq(map, structs, json).foreach { labels =>
      val call = built("ai_classify")(body, labels, named("instructions", "Think of the alphabet."))
      equal(call.options.constraint, Some(Choices(Seq("a", "b"))))
      equal(template(call), "Classify the text with one of these labels:\n- a: first\n- b: second\n" +
        "Think of the alphabet.\nAnswer with the label alone.\n\nText: {0}")
    }
  }

  test("several labels are an array of some of them, each once") {
    val call = built("ai_classify")(body, strings("a", "b", "c d"), named("multi", true))
    equal(call.dataType, ArrayType(StringType, containsNull = false))
    val Some(AnswerRegex(pattern)) = call.options.constraint
    Seq("[]", """["a"]""", """["b"]""", """["a", "b"]""", """["a", "c d"]""", """["a", "b", "c d"]""")
      .foreach(answer => equal(answer.matches(pattern), true, answer))
    Seq("", "a", """["a", "a"]""", """["b", "a"]""", """["x"]""", """["a",]""", """["a" "b"]""")
      .foreach(answer => equal(answer.matches(pattern), false, answer))
    equal(built("ai_classify")(body, strings("a"), named("multi", false)).dataType, StringType)
  }

  test("labels with characters of regular expressions and of JSON") {
    val labels = Seq("a.b*", "\"q\"", "\\", "x|y", "[z]", "é-ü", "1/2", "$^")
    val call = built("ai_classify")(body, strings(labels: _*), named("multi", true))
    val Some(AnswerRegex(pattern)) = call.options.constraint
    val all = """["a.b*", "\"q\"", "\\", "x|y", "[z]", "é-ü", "1/2", "$^"]"""
    equal(all.matches(pattern), true, pattern)
    equal("""["aXb*"]""".matches(pattern), false, pattern)
  }

  test("labels that cannot be") {
    def labels(value: Expression) = condition("ai_classify")(body, value)
    equal(labels(CreateArray(Nil)), "HELIUM_OPTION_OUT_OF_RANGE")
    equal(labels(strings()), "HELIUM_OPTION_OUT_OF_RANGE")
    equal(labels(strings("a", "")), "HELIUM_OPTION_OUT_OF_RANGE")
    equal(labels(strings("a", "a")), "HELIUM_OPTION_OUT_OF_RANGE")
    equal(labels(Literal(null, ArrayType(StringType))), "HELIUM_OPTION_OUT_OF_RANGE")
    equal(labels(CreateArray(Seq(Literal("a"), Literal(null, StringType)))), "HELIUM_OPTION_OUT_OF_RANGE")
    equal(labels(CreateArray(Seq(Literal(1)))), "HELIUM_OPTION_TYPE")
    equal(labels(Literal("a, b")), "HELIUM_OPTION_TYPE")
    equal(labels(Literal("[1]")), "HELIUM_OPTION_TYPE")
    equal(labels(title), "HELIUM_OPTION_NOT_CONSTANT")
    equal(labels(CreateArray(Seq(title))), "HELIUM_OPTION_NOT_CONSTANT")
    equal(condition("ai_classify")(body), "HELIUM_ARGUMENTS")
    equal(condition("ai_classify")(body, strings("a"), named("multi", "yes")), "HELIUM_OPTION_TYPE")
    equal(condition("ai_classify")(body, strings("a"), named("stop", "a")), "HELIUM_UNKNOWN_OPTION")
    equal(condition("ai_classify")(CreateArray(Seq(id)), strings("a")), "HELIUM_ARGUMENT_TYPE")
  }

  test("sentiments, by both names") {
    val call = built("ai_analyze_sentiment")(body)
    equal(call.options.constraint, Some(Choices(Seq("positive", "negative", "neutral", "mixed"))))
    equal(built("ai_sentiment")(body).semanticEquals(call), true)
    equal(built("ai_sentiment")(body).function, "ai_sentiment")
  }

  test("a filter with a template") {
    val call = filter(Literal("Is {0} about {1}?"), body, title)
    equal(template(call), "Is this true? Answer with true or false.\n\nIs {0} about {1}?")
    equal(call.arguments, Seq(body, title))
    equal(call.options.constraint, Some(Choices(Seq("true", "false"))))
    val byName = filter(Literal("Is {text} about {topic}?"), named("topic", title), named("text", body))
    equal(byName, call)
    val prompt = LLMCallBuilder.prompt(Seq(Literal("Is {0} about {1}?"), body, title))
    equal(filter(prompt), call)
  }

  test("a filter with a whole question") {
    equal(template(filter(Literal("Is Canada in North America?"))),
      "Is this true? Answer with true or false.\n\nIs Canada in North America?")
    equal(template(filter(Concat(Seq(Literal("Is it good? "), body)))),
      "Is this true? Answer with true or false.\n\nIs it good? {0}")
    equal(template(filter(body)), "Is this true? Answer with true or false.\n\n{0}")
  }

  test("a filter with content and condition, in any order that is clear") {
    val call = filter(body, Literal("it is good"))
    equal(template(call),
      "Does this condition hold for the text: it is good\nAnswer with true or false.\n\nText: {0}")
    equal(call.arguments, Seq(body))
    equal(filter(Literal("it is good"), body), call)
    equal(filter(named("condition", "it is good"), named("content", body)), call)
    equal(filter(Literal("some text"), Literal("it is good")).arguments, Seq(Literal("some text")))
  }

  test("a filter that cannot be") {
    equal(condition("ai_filter")(), "HELIUM_ARGUMENTS")
    equal(condition("ai_filter")(body, title), "HELIUM_OPTION_NOT_CONSTANT")
    equal(condition("ai_filter")(body, Literal(null, StringType)), "HELIUM_OPTION_OUT_OF_RANGE")
    equal(condition("ai_filter")(body, Literal("a"), Literal("b")), "HELIUM_ARGUMENTS")
    equal(condition("ai_filter")(Literal("{0} {1}"), body), "HELIUM_TEMPLATE_ARGUMENTS")
    equal(condition("ai_filter")(Literal("{0"), body), "HELIUM_TEMPLATE_SYNTAX")
    equal(condition("ai_filter")(Literal("{0}"), body, named("choices", strings("a"))), "HELIUM_UNKNOWN_OPTION")
  }

  test("a filter's failed row is NULL with failOnError => false") {
    expression("ai_filter")(Literal("Is {0} good?"), body, named("failOnError", false)) match {
      case EqualTo(GetStructField(call: LLMCall, 0, Some("response")), _) =>
        equal(call.dataType, LLMCall.reportedType(StringType))
      case other => throw new AssertionError(other.toString)
    }
  }

  private def cascade(more: (String, Any)*): LLMCall = {
    val options = Seq("proxy_model" -> "org/small", "target_precision" -> 0.9, "target_recall" -> 0.95)
    filter(Seq(Literal("Is {0} good?"), body) ++ (options ++ more).map { case (name, value) => named(name, value) }: _*)
  }

  test("a filter with a proxy") {
    val call = cascade()
    equal(call.options.cascade, Some(Cascade("org/small", 0.9, 0.95, 288)))
    equal(cascade("sample_rows" -> 100).options.cascade, Some(Cascade("org/small", 0.9, 0.95, 100)))
    equal(template(call), template(filter(Literal("Is {0} good?"), body)))
    equal(call.semanticEquals(filter(Literal("Is {0} good?"), body)), false)
    equal(call.semanticEquals(cascade("sample_rows" -> 100)), false)
    equal(call.semanticEquals(cascade("sampleRows" -> 288)), true)
    equal(call.deterministic, true)
    equal(call.describe.endsWith("proxy_model => 'org/small', target_precision => 0.9, " +
      "target_recall => 0.95, sample_rows => 288)"), true, call.describe)
    equal(call.sql, "ai_filter('Is this true? Answer with true or false.\n\nIs {0} good?', body, " +
      "proxy_model => 'org/small', target_precision => 0.9, target_recall => 0.95)")
  }

  test("samples that suffice") {
    // 0.95^72 < 0.025 <= 0.95^71, and 0.95^113 < 0.025 / 8 <= 0.95^112.
    equal(Cascade.leastSample(0.95, 0.95), 72)
    equal(Cascade.leastSample(0.5, 0.95), 10)
    equal(Cascade.defaultSample(0.95, 0.95), 456)
    equal(Cascade.defaultSample(0.95, 0.5), 456)
    equal(Cascade.defaultSample(0.5, 0.95), 288)
  }

  test("a cascade that cannot be") {
    def mistake(options: (String, Any)*): String =
      condition("ai_filter")(Seq(Literal("Is {0} good?"), body) ++ options.map { case (n, v) => named(n, v) }: _*)
    val whole = Seq[(String, Any)](
      "proxy_model" -> "org/small", "target_precision" -> 0.9, "target_recall" -> 0.9)
    whole.indices.foreach { i =>
      equal(mistake(whole.patch(i, Nil, 1): _*), "HELIUM_CASCADE")
      equal(mistake(whole(i)), "HELIUM_CASCADE")
    }
    equal(mistake(whole :+ ("model" -> "org/small"): _*), "HELIUM_CASCADE")
    equal(mistake(whole :+ ("temperature" -> 0.5): _*), "HELIUM_CASCADE")
    equal(mistake(whole :+ ("sample_rows" -> 35): _*), "HELIUM_CASCADE")
    equal(mistake(whole :+ ("sample_rows" -> 4097): _*), "HELIUM_OPTION_OUT_OF_RANGE")
    equal(mistake(whole.updated(1, "target_precision" -> 1.0): _*), "HELIUM_OPTION_OUT_OF_RANGE")
    equal(mistake(whole.updated(0, "proxy_model" -> "small"): _*), "HELIUM_UNKNOWN_MODEL")
  }

  test("columns are named as the text has the call") {
    val call = FunctionCatalog.all.find(_.name == "ai_classify").get
      .builder(Seq(body, strings("a"), named("multi", true)))
    equal(call.sql, "ai_classify(body, array('a'), multi => true)")
    equal(call.dataType, ArrayType(StringType, containsNull = false))
  }
}
