package org.apache.spark.sql.helium.expressions

import org.apache.spark.sql.catalyst.FunctionIdentifier
import org.apache.spark.sql.catalyst.expressions.{Expression, ExpressionInfo}
import org.apache.spark.sql.helium.execution.{QueryReport, UsageCounters}

/** All functions of the extension, in the groups of the documentation. */
object FunctionCatalog {

  type Builder = Seq[Expression] => Expression

  case class Function(
      name: String, usage: String, arguments: String, examples: String, builder: Builder) {

    def description: (FunctionIdentifier, ExpressionInfo, Builder) = {
      val info = new ExpressionInfo(
        "org.apache.spark.sql.helium.expressions.LLMCall", null, name, usage, arguments, examples,
        "", "", "0.1.0", "", "scala_udf")
      (FunctionIdentifier(name), info, builder)
    }
  }

  val calls: Seq[Function] = Seq(
    Function(
      name = "llm",
      usage = "_FUNC_(template, args..., option => value...) - Answer of a language model to the" +
        " prompt that the template gives for each row. NULL in an argument gives NULL.",
      arguments =
        """
    Arguments:
      * template - a constant string with placeholders {}, {0} or {name} for the arguments, a
          prompt(...), or an ARRAY<STRUCT<role, content>> for a conversation.
      * args - what the placeholders stand for: strings, numbers, booleans, dates, timestamps.
      * fields - struct(...): columns for the prompt as lines "name: value", at {fields} in the
          template or at its end, in the order that shares the longest beginnings between rows.
      * model - a built-in name, a path or a hub name; default spark.helium.model.
      * system - a constant system message.
      * max_tokens - most output tokens; default spark.helium.maxTokens.
      * temperature - 0 (default) to 2; 0 takes the most probable token.
      * top_p - above 0, at most 1 (default).
      * seed - makes a call with a temperature repeatable.
      * stop - a string or an array of strings that end the answer.
      * choices - an array of strings, one of which is the answer.
      * response_schema - a DDL string or a JSON schema; the answer becomes a value of that type.
      * regex - a regular expression that the whole answer matches.
      * failOnError - true (default) ends the query at the first failed row; false returns
          STRUCT<response, errorMessage>.
  """,
      examples =
        """
    Examples:
      > SELECT _FUNC_('Answer with one word, positive or negative: {0}', body,
                      choices => array('positive', 'negative')) FROM reviews;
      > SELECT _FUNC_('Who wrote {title}?', title => book, max_tokens => 16) FROM books;
  """,
      builder = LLMCallBuilder.llm),
    Function(
      name = "prompt",
      usage = "_FUNC_(template, args...) - A prompt that stays visible to the optimizer where a" +
        " prompt is expected; elsewhere the string that it renders to.",
      arguments =
        """
    Arguments:
      * template - a constant string with placeholders {}, {0} or {name} for the arguments.
      * args - what the placeholders stand for.
  """,
      examples =
        """
    Examples:
      > SELECT _FUNC_('Hello {0}', 'world');
       Hello world
  """,
      builder = LLMCallBuilder.prompt))

  /** What the Python API is built on; nothing for users' queries. */
  val plumbing: Seq[Function] = Seq(
    Function(
      name = NamedArgument.function,
      usage = "_FUNC_(name, value) - The named argument name => value of the enclosing function.",
      arguments = "", examples = "", builder = NamedArgument.build),
    Function(
      name = UsageCounters.function,
      usage = "_FUNC_() - What the LLM calls of this session have used so far.",
      arguments = "", examples = "", builder = UsageCounters.build),
    Function(
      name = QueryReport.function,
      usage = "_FUNC_(view, analyze) - What the optimizer makes of a view's LLM calls, as JSON.",
      arguments = "", examples = "", builder = QueryReport.build))

  val all: Seq[Function] = calls ++ plumbing
}
