package org.apache.spark.sql.helium.rules

import org.apache.spark.sql.catalyst.expressions.{Expression, HigherOrderFunction, LambdaFunction}
import org.apache.spark.sql.catalyst.plans.logical.LogicalPlan
import org.apache.spark.sql.helium.HeliumErrors
import org.apache.spark.sql.helium.expressions.LLMCall

/**
 * Analysis check: names the places where an LLM call cannot run.
 *
 * The lambda of a higher-order function is evaluated inside one expression, element by element,
 * so that no operator could hold the call.
 */
object CheckLLMCallPlacement extends (LogicalPlan => Unit) {

  override def apply(plan: LogicalPlan): Unit = plan.foreachWithSubqueries { node =>
    node.expressions.foreach(check)
  }

  private def check(expression: Expression): Unit = expression.foreach {
    case f: HigherOrderFunction =>
      f.functions.foreach {
        case lambda: LambdaFunction =>
          lambda.collectFirst { case call: LLMCall => call }.foreach { call =>
            throw HeliumErrors.callInLambda(call.function, s"${f.prettyName}()")
          }
        case _ =>
      }
    case _ =>
  }
}
