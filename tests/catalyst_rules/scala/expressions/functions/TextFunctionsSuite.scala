package org.apache.spark.sql.helium.expressions.functions

import org.apache.spark.sql.catalyst.expressions._
import org.apache.spark.sql.helium.testing.FunctionSuite
import org.apache.spark.sql.types.StringType

class TextFunctionsSuite extends FunctionSuite {

  test("a summary, with a number of words") {
    val call = built("ai_summarize")(body)
    equal(template(call), "Summarize the text in at most 50 words. Answer with the summary alone.\n\nText: {0}")
    equal(call.options.sampling.maxTokens, 182)
    equal(template(built("ai_summarize")(body, Literal(0))),
      "Summarize the text. Answer with the summary alone.\n\nText: {0}")
    equal(built("ai_summarize")(body, Literal(0)).options.sampling.maxTokens, 256)
    equal(built("ai_summarize")(body, named("max_words", 20)), built("ai_summarize")(body, Literal(20)))
    equal(condition("ai_summarize")(body, Literal(-1)), "HELIUM_OPTION_OUT_OF_RANGE")
    equal(condition("ai_summarize")(body, Literal("many")), "HELIUM_OPTION_TYPE")
    equal(condition("ai_summarize")(body, id), "HELIUM_OPTION_NOT_CONSTANT")
  }

  test("a translation into a language by code, by name and by column") {
    def into(language: String) = template(built("ai_translate")(body, Literal(language)))
    val spanish = "Translate the text into Spanish. Answer with the translation alone.\n\nText: {0}"
    equal(into("es"), spanish)
    equal(into("Spanish"), spanish)
    equal(into("pt-BR").contains("Portuguese (Brazil)"), true)
    equal(into("Old Norse").contains("into Old Norse."), true)
    val call = built("ai_translate")(body, title)
    equal(template(call), "Translate the text into the language below. Answer with the translation alone." +
      "\n\nLanguage: {0}\n\nText: {1}")
    equal(call.arguments, Seq(title, body))
    equal(call.options.sampling.maxTokens, 1024)
  }

  test("a translation from a language") {
    equal(template(built("ai_translate")(body, Literal("en"), Literal("de"))),
      "Translate the text from English into German. Answer with the translation alone.\n\nText: {0}")
    equal(built("ai_translate")(body, Literal(""), Literal("de")), built("ai_translate")(body, Literal("de")))
    equal(built("ai_translate")(body, Literal("de"), named("from_lang", "en")),
      built("ai_translate")(body, Literal("en"), Literal("de")))
    equal(condition("ai_translate")(body), "HELIUM_ARGUMENTS")
    equal(condition("ai_translate")(body, Literal(3)), "HELIUM_OPTION_TYPE")
  }

  test("grammar and masks") {
    equal(template(built("ai_fix_grammar")(body)).endsWith("\n\nText: {0}"), true)
    val mask = template(built("ai_mask")(body, strings("person", "email")))
    equal(mask.startsWith("Repeat the text with [MASKED] in place of everything of these kinds: person, email."), true)
    equal(condition("ai_mask")(body, strings()), "HELIUM_OPTION_OUT_OF_RANGE")
  }

  test("content that is no text") {
    equal(built("ai_fix_grammar")(id).arguments, Seq(Cast(id, StringType)))
    equal(condition("ai_fix_grammar")(CreateArray(Seq(id))), "HELIUM_ARGUMENT_TYPE")
  }

  test("all options, and those that there are not") {
    val call = built("ai_fix_grammar")(body, named("temperature", 0.5), named("seed", 3), named("stop", "."),
      named("max_tokens", 9), named("top_p", 0.5), named("failOnError", false), named("system", "Be kind"))
    equal(call.options.sampling.maxTokens, 9)
    equal(call.options.sampling.stop, Seq("."))
    equal(call.options.failOnError, false)
    equal(condition("ai_fix_grammar")(body, named("choices", strings("a"))), "HELIUM_UNKNOWN_OPTION")
  }
}
