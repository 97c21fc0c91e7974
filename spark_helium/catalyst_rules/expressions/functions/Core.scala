package org.apache.spark.sql.helium.expressions.functions

import org.apache.spark.sql.helium.expressions.FunctionCatalog.{Function, Group}
import org.apache.spark.sql.helium.expressions.LLMCallBuilder

/** The call that every other function is made of, and templates by themselves. */
object Core {

  val functions: Seq[Function] = Seq(
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
      * fields - struct(...): columns for the prompt as a JSON object, at {fields} in the template or
          in a line at its end, in the order that shares the longest beginnings between rows. NULL
          in a field is written as null.
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
                      choices => array('positive', 'negative')) FROM reviews LIMIT 3;
      > SELECT _FUNC_('Who wrote {title}?', title => 'Moby-Dick', max_tokens => 16);
  """,
      group = Group.Core,
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
      group = Group.Core,
      builder = LLMCallBuilder.prompt))
}
