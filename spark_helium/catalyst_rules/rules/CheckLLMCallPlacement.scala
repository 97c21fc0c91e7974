package org.apache.spark.sql.helium.rules

import org.apache.spark.sql.catalyst.expressions._
import org.apache.spark.sql.catalyst.plans.logical.{Aggregate, BinaryNode, Join, LogicalPlan}
import org.apache.spark.sql.helium.HeliumErrors
import org.apache.spark.sql.helium.expressions.{AIAgg, LLMCall, NamedArgument}

/**
 * Analysis check: names the places where an LLM call cannot run.
 *
 * The lambda of a higher-order function is evaluated inside one expression, element by element,
 * so that no operator could hold the call. A call over both sides of an outer join has limits of its
 * own, see [[RewriteTwoSidedJoinCalls]].
 */
object CheckLLMCallPlacement extends (LogicalPlan => Unit) {

  override def apply(plan: LogicalPlan): Unit = plan.foreachWithSubqueries { node =>
    // What a DataFrame is made from was checked when that was made, as Spark's own checks know too.
    if (!node.analyzed) {
      node.expressions.foreach(check)
      checkOperator(node)
    }
  }

  private def checkOperator(node: LogicalPlan): Unit = node match {
    case a: Aggregate =>
      AIAgg.firstIn(a.expressions).filter(_ => a.isStreaming).foreach { f =>
        throw HeliumErrors.callPlacement(f.prettyName, "the aggregation of a stream",
          "the texts of a group come in several batches, and it needs all of them",
          "Write the stream to a table, and aggregate that.")
      }
    case join: Join => RewriteTwoSidedJoinCalls.declines(join).foreach { reason =>
      val call = LLMCall.firstIn(join.condition).get
      throw HeliumErrors.callInJoin(call.function, join.joinType.sql, reason)
    }
    case other if AIAgg.firstIn(other.expressions).isDefined =>
      val place = if (other.expressions.exists(_.exists(_.isInstanceOf[WindowExpression]))) "a window"
        else other.nodeName
      throw HeliumErrors.callPlacement(AIAgg.firstIn(other.expressions).get.prettyName, place,
        "it is an aggregate for GROUP BY, or for all rows",
        "Aggregate in a query below, and join its answers to the rows.")
    case other: BinaryNode =>
      LLMCall.firstIn(other.expressions).foreach { call =>
        throw HeliumErrors.callPlacement(call.function, other.nodeName,
          "this operator has no single input to compute it on")
      }
    case _ =>
  }

  private def check(expression: Expression): Unit = expression.foreach {
    case f: HigherOrderFunction =>
      f.functions.foreach {
        case lambda: LambdaFunction =>
          LLMCall.firstIn(Seq(lambda)).foreach { call =>
            throw HeliumErrors.callInLambda(call.function, s"${f.prettyName}()")
          }
        case _ =>
      }
    case NamedArgumentExpression(name, _) =>
      throw HeliumErrors.callPlacement(NamedArgument.function, "this place",
        s"$name is the argument of no function", "Give it to a function such as llm().")
    case _ =>
  }
}
