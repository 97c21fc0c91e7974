package org.apache.spark.sql.helium.expressions.functions

import org.apache.spark.sql.catalyst.expressions.{Alias, Expression, NamedArgumentExpression}
import org.apache.spark.sql.helium.HeliumErrors
import org.apache.spark.sql.helium.expressions._
import org.apache.spark.sql.helium.expressions.FunctionCatalog.{Function, Group}
import org.apache.spark.sql.types.DoubleType
import org.apache.spark.unsafe.types.UTF8String

/** How probable a model finds something, from the probabilities of its answers' first tokens. */
object Scores {

  val functions: Seq[Function] = Seq(
    Function(
      name = "ai_score",
      usage = "_FUNC_(template, args...) - How probable the model finds it that the answer to a yes/no question is yes:" +
        " a DOUBLE from 0 to 1, P(yes) / (P(yes) + P(no)) at the first token of the answer. NULL gives NULL.",
      arguments =
        """
    Arguments:
      * template - a yes/no question: a constant string with placeholders {}, {0} or {name} for the
          arguments, a prompt(...), or a string without further arguments.
      * args - what the placeholders stand for.
      * choices - an array of the two answers; the score is the first one's. Default array('yes', 'no'). They must
          differ in the first token that the model writes them with.
      * options - model, system and failOnError, as those of llm(). Nothing is generated, so that there is nothing
          to sample.
  """,
      examples =
        """
    Examples:
      > SELECT product, body FROM reviews ORDER BY _FUNC_('Is this review angry? {0}', body) DESC LIMIT 3;
      > SELECT _FUNC_('Is {animal} a bird?', animal => 'a robin') > 0.5;
      > SELECT _FUNC_('Ist das eine Beschwerde? {0}', body, choices => array('ja', 'nein')) FROM reviews LIMIT 2;
  """,
      group = Group.Scores,
      builder = score))

  private val options = Seq("model", "system", "failOnError")

  private val choicesName = "choices"

  private val default = Seq("yes", "no")

  private def score(expressions: Seq[Expression]): Expression = {
    val function = "ai_score"
    val (positional, named) = LLMCallBuilder.split(function, expressions)
    val (optionArgs, others) = named.partition { case (name, _) => isOneOf(name, options) }
    val (choiceArgs, slots) = others.partition { case (name, _) => isOneOf(name, Seq(choicesName)) }
    if (positional.isEmpty) {
      throw HeliumErrors.templateArguments(function, "", "there is no template")
    }
    val choices = new OptionReader(function, choiceArgs).strings(choicesName).getOrElse(default)
    if (choices.size != 2 || choices.exists(_.isEmpty) || choices.distinct.size != 2) {
      throw HeliumErrors.optionOutOfRange(function, choicesName,
        choices.map(c => s"'$c'").mkString("array(", ", ", ")"), "two different strings that are not empty")
    }
    val (prompt, arguments) =
      if (positional.size == 1 && slots.isEmpty && !isTemplate(positional.head)) {
        Prompts.whole(function, positional.head)
      } else {
        LLMCallBuilder.promptOf(function, positional, slots, None)
      }
    val task = Score(choices.head, choices.last)
    val (asked, slotted) = behindInstruction(task, prompt, arguments)
    // One token is computed: what counts is how probable it might have been.
    val call = LLMCallBuilder.call(function, asked, slotted, optionArgs, maxTokens = Some(1))
    LibraryCall(function, expressions.map {
      case NamedArgumentExpression(name, value) => Some(name) -> value
      case value => None -> value
    }, call.copy(options = call.options.copy(task = task), answerType = DoubleType))
  }

  private def isOneOf(name: String, names: Seq[String]): Boolean =
    names.exists(o => OptionReader.normalize(o) == OptionReader.normalize(name))

  private def isTemplate(e: Expression): Boolean = e match {
    case Alias(child, _) => isTemplate(child)
    case Prompt(_, _) => true
    case _ => OptionReader.constant(e).exists(_.isInstanceOf[UTF8String])
  }

  /** What is the same for every row comes first. A conversation has its own beginning. */
  private def behindInstruction(
      task: Score, prompt: PromptSpec, arguments: Seq[Expression]): (PromptSpec, Seq[Expression]) =
    prompt match {
      case Messages(Seq(MessageTemplate("user", PromptTemplate(parts)))) =>
        Prompts.user(Text(s"Answer with ${task.first} or ${task.second}.\n\n") +: parts, arguments)
      case other => (other, arguments)
    }
}
