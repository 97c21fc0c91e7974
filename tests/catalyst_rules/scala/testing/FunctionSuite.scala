package org.apache.spark.sql.helium.testing

import org.apache.spark.sql.AnalysisException
import org.apache.spark.sql.catalyst.expressions._
import org.apache.spark.sql.helium.expressions._

/** Calls of the library's functions, as the analyzer would make them. */
abstract class FunctionSuite extends PlanSuite {

  protected def expression(function: String)(arguments: Expression*): Expression =
    FunctionCatalog.all.find(_.name == function).get.builder(arguments) match {
      case written: LibraryCall => written.replacement
      case other => throw new AssertionError(s"$function gave $other")
    }

  /** The LLM call that a function becomes, where nothing stands around it. */
  protected def built(function: String)(arguments: Expression*): LLMCall =
    expression(function)(arguments: _*).asInstanceOf[LLMCall]

  protected def condition(function: String)(arguments: Expression*): String =
    intercept[AnalysisException](expression(function)(arguments: _*)).getCondition

  protected def named(name: String, value: Expression): Expression = NamedArgumentExpression(name, value)

  protected def named(name: String, value: Any): Expression = named(name, Literal(value))

  protected def strings(values: String*): Expression = CreateArray(values.map(Literal(_)))

  protected def record(fields: (String, Any)*): Expression =
    CreateNamedStruct(fields.flatMap { case (name, value) => Seq(Literal(name), Literal(value)) })

  /** The text of a call's one message, with placeholders. */
  protected def template(call: LLMCall): String = call.prompt match {
    case Messages(Seq(MessageTemplate("user", content))) => content.sql
    case other => throw new AssertionError(s"not one message of the user: $other")
  }

  protected def schema(call: LLMCall): String = call.options.constraint match {
    case Some(JsonSchema(text)) => text
    case other => throw new AssertionError(s"no JSON schema: $other")
  }
}
