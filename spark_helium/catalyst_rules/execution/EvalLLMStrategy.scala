package org.apache.spark.sql.helium.execution

import org.apache.spark.sql.catalyst.plans.logical.LogicalPlan
import org.apache.spark.sql.execution.{SparkPlan, SparkStrategy}
import org.apache.spark.sql.helium.plans.EvalLLM

/** `EvalLLM` to `EvalLLMExec`. */
object EvalLLMStrategy extends SparkStrategy {

  override def apply(plan: LogicalPlan): Seq[SparkPlan] = plan match {
    case EvalLLM(calls, answers, child) => EvalLLMExec(calls, answers, planLater(child)) :: Nil
    case _ => Nil
  }
}
