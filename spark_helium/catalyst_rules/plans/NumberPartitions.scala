package org.apache.spark.sql.helium.plans

import org.apache.spark.sql.catalyst.expressions.{Attribute, AttributeSet}
import org.apache.spark.sql.catalyst.plans.logical.{LogicalPlan, UnaryNode}

/**
 * The child's rows with the number of their partition.
 *
 * As `spark_partition_id()` in a Project, but Spark knows what it means: rows with one number are in one partition,
 * so that an aggregate by it, and by anything else, needs no exchange (`NumberPartitionsExec`).
 */
case class NumberPartitions(partition: Attribute, child: LogicalPlan) extends UnaryNode {

  override def output: Seq[Attribute] = child.output :+ partition

  override lazy val producedAttributes: AttributeSet = AttributeSet(partition)

  override def maxRows: Option[Long] = child.maxRows

  override protected def withNewChildInternal(newChild: LogicalPlan): NumberPartitions = copy(child = newChild)
}
