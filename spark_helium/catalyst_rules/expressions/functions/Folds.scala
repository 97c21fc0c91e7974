package org.apache.spark.sql.helium.expressions.functions

import org.apache.spark.sql.catalyst.expressions.{Alias, Cast, Expression}
import org.apache.spark.sql.catalyst.util.toPrettySQL
import org.apache.spark.sql.helium.HeliumErrors
import org.apache.spark.sql.helium.expressions._
import org.apache.spark.sql.helium.expressions.FunctionCatalog.{Function, Group}
import org.apache.spark.sql.types._
import org.apache.spark.unsafe.types.UTF8String

/** Iterative refinement: an answer that goes through the elements of an array, one call each. */
object Folds {

  val functions: Seq[Function] = Seq(
    Function(
      name = "llm_fold",
      usage = "_FUNC_(array, init_template, step_template) - An answer refined over the elements of an array, such as" +
        " the chunks of a document: a call for the first element, and one more for each further element with the" +
        " answer so far.",
      arguments =
        """
    Arguments:
      * array - an array of texts. NULL elements are passed over; NULL, and an array without texts, give NULL.
      * init_template - constant: the prompt for the first element, which {0} stands for.
      * step_template - constant: the prompt for a further element: {0} is the answer so far, {1} the element.
      * model, max_tokens, temperature, top_p, seed, stop, failOnError - as in llm().
  """,
      examples =
        """
    Examples:
      > SELECT _FUNC_(array('First part.', 'Second part.'), 'Summarize: {0}',
                      'Summary so far: {0} Extend it with: {1}', max_tokens => 32);
  """,
      group = Group.Aggregates,
      builder = fold))

  private def fold(expressions: Seq[Expression]): Expression = {
    val function = "llm_fold"
    val (given, options) =
      Aggregates.arguments(function, expressions, Seq("array", "init_template", "step_template"))
    val (initText, first) = template(function, given(1), 1)
    val (stepText, further) = template(function, given(2), 2)
    val prompt = Unrolled(Fold, user(first), user(further.mapSlots {
      case 0 => Unrolled.soFar
      case _ => Unrolled.atHand
    }), slot = 0, shown = Seq(initText, stepText))
    LLMCallBuilder.unrolled(function, prompt, texts(function, given.head), options)
  }

  /** A constant template with exactly these placeholders: {0} to {count - 1}, or as many {}. */
  private def template(function: String, e: Expression, count: Int): (String, PromptTemplate) = {
    val source = OptionReader.constant(e) match {
      case Some(text: UTF8String) => text.toString
      case _ => throw HeliumErrors.templateNotConstant(function, e)
    }
    val parsed = try PromptTemplate.parse(source) catch {
      case PromptTemplate.SyntaxError(position, reason) =>
        throw HeliumErrors.templateSyntax(function, source, position, reason)
    }
    val slots = parsed.template.slots.distinct.sorted
    if (parsed.names.nonEmpty || slots != (0 until count)) {
      throw HeliumErrors.templateArguments(function, source,
        if (count == 1) "the template of the first element has the placeholder {0} for it, and no other"
        else "the template of a further element has the placeholders {0} for the answer so far and {1} for the element")
    }
    (source, parsed.template)
  }

  private[functions] def texts(function: String, array: Expression): Expression = array match {
    case Alias(child, _) => texts(function, child)
    case e => e.dataType match {
      case ArrayType(StringType, _) => e
      case NullType => Cast(e, ArrayType(StringType))
      case ArrayType(_: StringType | _: NumericType | BooleanType | DateType | TimestampType | TimestampNTZType |
          NullType, nulls) => Cast(e, ArrayType(StringType, nulls))
      case other => throw HeliumErrors.optionType(function, "array", toPrettySQL(e), other,
        "an array of texts, such as array(a, b) or split(document, '\\n\\n')")
    }
  }

  private def user(template: PromptTemplate): Seq[MessageTemplate] = Seq(MessageTemplate("user", template))
}
