package org.apache.spark.sql.helium.execution

import org.apache.spark.sql.catalyst.SQLConfHelper
import org.apache.spark.sql.catalyst.plans.logical.LogicalPlan
import org.apache.spark.sql.catalyst.plans.physical.RoundRobinPartitioning
import org.apache.spark.sql.execution.{SparkPlan, SparkStrategy}
import org.apache.spark.sql.execution.exchange.{REBALANCE_PARTITIONS_BY_NONE, ShuffleExchangeExec}
import org.apache.spark.sql.helium.plans.{CallLevels, EvalLLM, SharedCalls}

/** `EvalLLM` to `EvalLLMExec`, and a shared subplan to an exchange, which Spark reuses. */
object EvalLLMStrategy extends SparkStrategy with SQLConfHelper {

  override def apply(plan: LogicalPlan): Seq[SparkPlan] = plan match {
    case node: EvalLLM => CallLevels.divided(node) match {
      case EvalLLM(calls, answers, child, notes) =>
        EvalLLMExec(calls, answers, planLater(child), notes) :: Nil
      case divided => planLater(divided) :: Nil
    }
    case SharedCalls(child) =>
      ShuffleExchangeExec(RoundRobinPartitioning(conf.numShufflePartitions), planLater(child),
        REBALANCE_PARTITIONS_BY_NONE) :: Nil
    case _ => Nil
  }
}
