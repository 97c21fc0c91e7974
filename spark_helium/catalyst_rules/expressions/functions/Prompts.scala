package org.apache.spark.sql.helium.expressions.functions

import scala.collection.mutable

import org.apache.spark.sql.catalyst.expressions.{Alias, Concat, Expression}
import org.apache.spark.sql.helium.HeliumConf
import org.apache.spark.sql.helium.expressions._
import org.apache.spark.sql.internal.SQLConf
import org.apache.spark.sql.types.{ArrayType, StringType}
import org.apache.spark.unsafe.types.UTF8String

/**
 * Prompts of the library. What is the same for every row comes first, so that rows share the beginning of
 * their prompts, and the content comes last.
 */
private[functions] object Prompts {

  /** Options that every function takes: those of `llm` but for what says which answers there are. */
  val options: Seq[String] =
    LLMCallBuilder.options.filterNot(Set("choices", "response_schema", "regex"))

  /** Functions with an answer of a fixed form: ending it early would break the form. */
  val optionsOfTyped: Seq[String] = options.filterNot(_ == "stop")

  val optionLines: String =
    """      * options - model, system, max_tokens, temperature, top_p, seed, stop and failOnError, as those of
          llm()."""

  val typedOptionLines: String =
    """      * options - model, system, max_tokens, temperature, top_p, seed and failOnError, as those of llm()."""

  /** The session's `spark.helium.maxTokens`, or `tokens` where that is more. */
  def atLeastDefault(tokens: Int): Int = HeliumConf.int(SQLConf.get, "spark.helium.maxTokens").max(tokens)

  /** One message of the user: an instruction and, below it, the content. */
  def about(function: String, instruction: String, content: Expression): (PromptSpec, Seq[Expression]) =
    user(Seq(Text(s"$instruction\n\nText: "), Slot(0)), Seq(LLMCallBuilder.text(function, content, 1)))

  def user(parts: Seq[PromptPart], arguments: Seq[Expression]): (PromptSpec, Seq[Expression]) =
    (Messages(Seq(MessageTemplate("user", PromptTemplate(parts)))), arguments)

  /**
   * A whole prompt that is no template: a constant, a `prompt(...)`, a conversation, or a string. What
   * the user put together with `||` or `concat` is a template too: its constants are the same for every row.
   */
  def whole(function: String, prompt: Expression): (PromptSpec, Seq[Expression]) = prompt match {
    case Alias(child, _) => whole(function, child)
    case Prompt(_, _) => LLMCallBuilder.promptOf(function, Seq(prompt), Nil, None)
    case _ if prompt.dataType.isInstanceOf[ArrayType] =>
      LLMCallBuilder.promptOf(function, Seq(prompt), Nil, None)
    case _ =>
      val arguments = mutable.ArrayBuffer.empty[Expression]
      val parts = pieces(function, prompt, arguments)
      user(parts, arguments.toSeq)
  }

  private def pieces(
      function: String, e: Expression, arguments: mutable.ArrayBuffer[Expression]): Seq[PromptPart] =
    (e, OptionReader.constant(e)) match {
      case (_, Some(text: UTF8String)) => PromptTemplate.literal(text.toString).parts
      case (Alias(child, _), _) => pieces(function, child, arguments)
      case (Concat(children), _) if e.dataType == StringType =>
        children.flatMap(pieces(function, _, arguments))
      case _ =>
        arguments += LLMCallBuilder.text(function, e, arguments.size + 1)
        Seq(Slot(arguments.size - 1))
    }
}
