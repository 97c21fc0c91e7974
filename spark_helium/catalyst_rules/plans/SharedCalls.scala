package org.apache.spark.sql.helium.plans

import org.apache.spark.sql.catalyst.expressions.{Attribute, AttributeSet}
import org.apache.spark.sql.catalyst.plans.logical.{LogicalPlan, UnaryNode}

/**
 * A subplan with calls that stands in several places of a query and runs once: planned as an exchange,
 * which Spark recognises and reuses. It claims to read all columns, so that Spark does not prune the
 * copies in different ways; rows keep no order.
 */
case class SharedCalls(child: LogicalPlan) extends UnaryNode {

  override def output: Seq[Attribute] = child.output

  override lazy val references: AttributeSet = child.outputSet

  override def maxRows: Option[Long] = child.maxRows

  override protected def withNewChildInternal(newChild: LogicalPlan): SharedCalls =
    copy(child = newChild)
}
