package org.apache.spark.sql.helium.expressions.functions

import java.util.Locale

import org.apache.spark.sql.catalyst.expressions.Expression
import org.apache.spark.sql.helium.HeliumErrors
import org.apache.spark.sql.helium.expressions._
import org.apache.spark.sql.helium.expressions.FunctionCatalog.{Function, Group}
import org.apache.spark.unsafe.types.UTF8String

/** Texts made of texts. */
object TextFunctions {

  private val content = "      * content - a text, a prompt(...), or anything that can be written as text."

  /** Output tokens where the answer is about as long as the content. */
  private val asLongAsContent = 1024

  val functions: Seq[Function] = Seq(
    Function(
      name = "ai_summarize",
      usage = "_FUNC_(content[, max_words]) - A summary of the content. NULL gives NULL.",
      arguments =
        s"""
    Arguments:
$content
      * max_words - constant: how many words the model is asked for at most, default 50; 0 sets no limit.
${Prompts.optionLines} max_tokens is 3 * max_words + 32 by default.
  """,
      examples =
        """
    Examples:
      > SELECT _FUNC_(body) FROM reviews LIMIT 2;
      > SELECT _FUNC_(description, 10, temperature => 0.7, seed => 1) FROM reviews LIMIT 2;
  """,
      group = Group.Text,
      builder = summarize),
    Function(
      name = "ai_translate",
      usage = "_FUNC_(content, to_lang) or _FUNC_(content, from_lang, to_lang) - The content in another language." +
        " NULL gives NULL.",
      arguments =
        s"""
    Arguments:
$content
      * to_lang - a language as a code (es, pt-BR) or a name; a column, too, but then less of the prompts is shared.
      * from_lang - constant: the language of the content; an empty string or none lets the model find out.
${Prompts.optionLines} max_tokens is 1024 by default,
          or spark.helium.maxTokens where that is more.
  """,
      examples =
        """
    Examples:
      > SELECT _FUNC_('Hello, how are you?', 'es');
      > SELECT _FUNC_(product, 'en', 'de') FROM reviews LIMIT 2;
  """,
      group = Group.Text,
      builder = translate),
    Function(
      name = "ai_fix_grammar",
      usage = "_FUNC_(content) - The content with its grammar corrected. NULL gives NULL.",
      arguments =
        s"""
    Arguments:
$content
${Prompts.optionLines} max_tokens is 1024 by default,
          or spark.helium.maxTokens where that is more.
  """,
      examples =
        """
    Examples:
      > SELECT _FUNC_('This sentence have some mistake');
  """,
      group = Group.Text,
      builder = fixGrammar),
    Function(
      name = "ai_mask",
      usage = "_FUNC_(content, labels) - The content with [MASKED] in place of what the labels name. The model does" +
        " it: check what must not get out. NULL gives NULL.",
      arguments =
        s"""
    Arguments:
$content
      * labels - constant: what to mask, in the forms that ai_classify() takes.
${Prompts.optionLines} max_tokens is 1024 by default,
          or spark.helium.maxTokens where that is more.
  """,
      examples =
        """
    Examples:
      > SELECT _FUNC_('John Doe lives in New York. His email is john.doe@example.com.', array('person', 'email'));
  """,
      group = Group.Text,
      builder = mask))

  private def summarize(expressions: Seq[Expression]): Expression = {
    val arguments = of("ai_summarize", expressions, Parameter("max_words", isRequired = false))
    val words = arguments.constants.int("max_words", "0 (no limit) to 100000")(n => n >= 0 && n <= 100000).getOrElse(50)
    val limit = if (words == 0) "" else if (words == 1) " in one word" else s" in at most $words words"
    answer(arguments, s"Summarize the text$limit. Answer with the summary alone.",
      Option.when(words > 0)(3 * words + 32))
  }

  private def translate(expressions: Seq[Expression]): Expression = {
    val function = "ai_translate"
    val byPosition = LLMCallBuilder.split(function, expressions)._1.size
    val (from, to) = (
      Parameter("from_lang", isRequired = false, aliases = Seq("source_language")),
      Parameter("to_lang", aliases = Seq("target_language")))
    val languages = if (byPosition >= 3) Seq(from, to) else Seq(to, from)
    val arguments = of(function, expressions, languages: _*)
    val source = arguments.constants.string("from_lang").filter(_.nonEmpty).fold("")(l => s" from ${language(l)}")
    OptionReader.constant(arguments("to_lang")) match {
      case Some(code: UTF8String) =>
        if (code.toString.isBlank) {
          throw HeliumErrors.optionOutOfRange(function, "to_lang", "empty", "a language, such as 'es' or 'Spanish'")
        }
        answer(arguments, s"Translate the text$source into ${language(code.toString)}. " +
          "Answer with the translation alone.", Some(Prompts.atLeastDefault(asLongAsContent)))
      case Some(null) | None =>
        val (prompt, slots) = Prompts.user(
          Seq(Text(s"Translate the text$source into the language below. Answer with the translation alone." +
            "\n\nLanguage: "), Slot(0), Text("\n\nText: "), Slot(1)),
          Seq("to_lang", "content").zipWithIndex.map { case (name, i) =>
            LLMCallBuilder.text(function, arguments(name), i + 1)
          })
        arguments.standingFor(LLMCallBuilder.call(function, prompt, slots, arguments.options,
          maxTokens = Some(Prompts.atLeastDefault(asLongAsContent))))
      case Some(other) => throw HeliumErrors.optionType(
        function, "to_lang", other, arguments("to_lang").dataType, "a string, such as 'es' or 'Spanish'")
    }
  }

  /** The English name for a code of a language; a name stays as it is. */
  private def language(code: String): String =
    if (code.matches("[A-Za-z]{2,3}([-_][A-Za-z0-9]+)*")) {
      val name = Locale.forLanguageTag(code.replace('_', '-')).getDisplayName(Locale.ENGLISH)
      if (name.isEmpty) code else name
    } else {
      code
    }

  private def fixGrammar(expressions: Seq[Expression]): Expression =
    answer(of("ai_fix_grammar", expressions),
      "Correct the grammar and the spelling of the text, and change nothing else. Answer with the corrected text alone.",
      Some(Prompts.atLeastDefault(asLongAsContent)))

  private def mask(expressions: Seq[Expression]): Expression = {
    val arguments = of("ai_mask", expressions, Parameter("labels"))
    val labels = Labels.listed(Labels.read(arguments, "labels"))
    answer(arguments, s"Repeat the text with [MASKED] in place of everything of these kinds:$labels\n" +
      "Change nothing else. Answer with the text alone.", Some(Prompts.atLeastDefault(asLongAsContent)))
  }

  private def of(function: String, expressions: Seq[Expression], more: Parameter*): FunctionArguments =
    new FunctionArguments(
      function, Parameter("content", aliases = Seq("text")) +: more, Prompts.options, expressions)

  private def answer(arguments: FunctionArguments, instruction: String, maxTokens: Option[Int]): Expression = {
    val (prompt, slots) = Prompts.about(arguments.function, instruction, arguments("content"))
    arguments.standingFor(LLMCallBuilder.call(
      arguments.function, prompt, slots, arguments.options, maxTokens = maxTokens))
  }
}
