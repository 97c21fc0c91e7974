package org.apache.spark.sql.helium.rules

import org.apache.spark.sql.catalyst.expressions._
import org.apache.spark.sql.catalyst.plans.logical._
import org.apache.spark.sql.helium.expressions.{ExpressionSize, LLMCall, Predicates}
import org.apache.spark.sql.helium.plans.EvalLLM

/**
 * A node, seen through the projections and filters above it.
 *
 * @param node the nearest `EvalLLM` below
 * @param columns the output of the plan, as expressions over the node's output
 * @param filters conditions that the rows have passed, over the node's output, the lowest first
 */
private[rules] case class CallsBelow(
    node: EvalLLM, columns: Seq[NamedExpression], filters: Seq[Expression]) {

  // A stack of wide projections asks for every column at each step, so that a scan would not do.
  private lazy val byId: Map[ExprId, NamedExpression] = columns.map(c => c.exprId -> c).toMap

  /** A column of the plan's output as an expression over the node's. */
  def column(a: Attribute): NamedExpression = byId.getOrElse(a.exprId, a)

  /** An expression over the plan's output as one over the node's. */
  def substitute[E <: Expression](e: E): E = e.transformUp { // which does not walk what it put in
    case a: Attribute => column(a) match {
      case alias: Alias => alias.child
      case other => other
    }
  }.asInstanceOf[E]

  /** Calls that must run for the given answers, and the others. */
  def split(read: AttributeSet): (Seq[(LLMCall, Attribute)], Seq[(LLMCall, Attribute)]) =
    CallsBelow.split(node, read)
}

private[rules] object CallsBelow {

  def apply(plan: LogicalPlan): Option[CallsBelow] = plan match {
    case node: EvalLLM => Some(CallsBelow(node, node.output, Nil))
    case Project(list, child) if list.forall(Predicates.isMovable) =>
      CallsBelow(child).map(below => below.copy(columns = list.map {
        case alias: Alias => below.substitute(alias)
        case a: Attribute => below.column(a)
        case other => other
      })).filter(_.columns.forall(ExpressionSize.isSmall(_)))
    case Filter(condition, child) if Predicates.isMovable(condition) =>
      CallsBelow(child).map(below =>
        below.copy(filters = below.filters ++ Predicates.conjuncts(below.substitute(condition))))
    case _ => None
  }

  /** Calls of a node that must run for the answers in `read`, and the others, both in order. */
  def split(
      node: EvalLLM,
      read: AttributeSet): (Seq[(LLMCall, Attribute)], Seq[(LLMCall, Attribute)]) = {
    val pairs = node.calls.zip(node.answers)
    val needed = pairs.foldRight(read) { case ((call, answer), wanted) =>
      if (wanted.contains(answer)) wanted ++ call.references else wanted
    }
    pairs.partition { case (_, answer) => needed.contains(answer) }
  }
}
