package org.apache.spark.sql.helium.execution

import org.apache.spark.rdd.RDD
import org.apache.spark.sql.catalyst.InternalRow
import org.apache.spark.sql.catalyst.expressions._
import org.apache.spark.sql.catalyst.plans.physical._
import org.apache.spark.sql.execution.{SparkPlan, UnaryExecNode}
import org.apache.spark.sql.types.{DataType, IntegerType}

/** The rows with the index of their partition, which stays where it is. */
case class NumberPartitionsExec(partition: Attribute, child: SparkPlan) extends UnaryExecNode {

  override def output: Seq[Attribute] = child.output :+ partition

  override def producedAttributes: AttributeSet = AttributeSet(partition)

  override def outputPartitioning: Partitioning =
    NumberedPartitioning(partition, child.outputPartitioning.numPartitions)

  override def outputOrdering: Seq[SortOrder] = child.outputOrdering

  override protected def doExecute(): RDD[InternalRow] = {
    val (all, given) = (output, child.output :+ partition) // the closure must not hold the node
    child.execute().mapPartitionsWithIndexInternal { (index, rows) =>
      val number = InternalRow(index)
      val joined = new JoinedRow
      val project = UnsafeProjection.create(all, given)
      project.initialize(index)
      rows.map(row => project(joined(row, number)))
    }
  }

  override protected def withNewChildInternal(newChild: SparkPlan): NumberPartitionsExec = copy(child = newChild)
}

/**
 * Each partition holds the rows with its own number, and no others do. So whatever is to be clustered by the
 * number and by other things is. An expression, as Spark's own partitionings are, so that it is
 * carried through projections that keep or rename the number.
 */
case class NumberedPartitioning(partition: Expression, numPartitions: Int)
  extends Expression with Partitioning with Unevaluable {

  override def children: Seq[Expression] = Seq(partition)

  override def nullable: Boolean = false

  override def dataType: DataType = IntegerType

  override def satisfies0(required: Distribution): Boolean = super.satisfies0(required) || (required match {
    case c: ClusteredDistribution =>
      !c.requireAllClusterKeys && c.clustering.exists(_.semanticEquals(partition))
    case _ => false
  })

  /** Nothing else is partitioned alike. */
  override def createShuffleSpec(distribution: ClusteredDistribution): ShuffleSpec = {
    val partitions = numPartitions
    new ShuffleSpec {
      override def numPartitions: Int = partitions
      override def canCreatePartitioning: Boolean = false
      override def isCompatibleWith(other: ShuffleSpec): Boolean = false
    }
  }

  override protected def withNewChildrenInternal(newChildren: IndexedSeq[Expression]): NumberedPartitioning =
    copy(partition = newChildren.head)
}
