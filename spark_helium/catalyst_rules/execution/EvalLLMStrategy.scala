package org.apache.spark.sql.helium.execution

import org.apache.spark.sql.catalyst.SQLConfHelper
import org.apache.spark.sql.catalyst.expressions.Expression
import org.apache.spark.sql.catalyst.plans.logical.{Filter, LogicalPlan}
import org.apache.spark.sql.catalyst.plans.physical.RoundRobinPartitioning
import org.apache.spark.sql.execution.{FilterExec, SparkPlan, SparkStrategy}
import org.apache.spark.sql.execution.exchange.{REBALANCE_PARTITIONS_BY_NONE, ShuffleExchangeExec}
import org.apache.spark.sql.helium.plans.{CallLevels, EvalLLM, LLMFilters, NumberPartitions, SharedCalls}
import org.apache.spark.sql.helium.rules.OrderLLMFilters
import org.apache.spark.sql.helium.statistics.QueryEstimate

/**
 * `EvalLLM` to `EvalLLMExec`, which knows the filter right above, and a shared subplan to an exchange,
 * which Spark reuses.
 */
object EvalLLMStrategy extends SparkStrategy with SQLConfHelper {

  override def apply(plan: LogicalPlan): Seq[SparkPlan] = plan match {
    case node: EvalLLM => physical(node) :: Nil
    case Filter(condition, node: EvalLLM) =>
      val filters = if (OrderLLMFilters.enabled) LLMFilters.forDaemon(condition, node) else Nil
      FilterExec(condition, physical(node, filters)) :: Nil
    case SharedCalls(child) =>
      ShuffleExchangeExec(RoundRobinPartitioning(conf.numShufflePartitions), planLater(child),
        REBALANCE_PARTITIONS_BY_NONE) :: Nil
    case NumberPartitions(partition, child) => NumberPartitionsExec(partition, planLater(child)) :: Nil
    case _ => Nil
  }

  private def physical(node: EvalLLM, filters: Seq[Expression] = Nil): SparkPlan =
    CallLevels.divided(node) match {
      case EvalLLM(calls, answers, child, notes, pace) =>
        EvalLLMExec(calls, answers, planLater(child), notes, filters, node.getTagValue(QueryEstimate.tag), pace)
      case divided =>
        divided.foreach { case level: EvalLLM => level.copyTagsFrom(node); case _ => }
        planLater(divided)
    }
}
