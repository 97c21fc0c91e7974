package org.apache.spark.sql.helium

import org.apache.spark.sql.catalyst.plans.logical.LogicalPlan
import org.apache.spark.sql.catalyst.rules.Rule
import org.apache.spark.sql.helium.plans.EvalLLM

/**
 * A rule that rewrites `EvalLLM` nodes, behind its own switch and the one of all rules.
 *
 * @param name of the switch, `spark.helium.optimizer.<name>.enabled`
 */
abstract class HeliumRule(name: String) extends Rule[LogicalPlan] {

  final override def apply(plan: LogicalPlan): LogicalPlan =
    if (plan.exists(_.isInstanceOf[EvalLLM]) && enabled) rewrite(plan) else plan

  /** The plan after the rule; the same object when it does not apply. */
  protected def rewrite(plan: LogicalPlan): LogicalPlan

  private def enabled: Boolean =
    HeliumConf.boolean(conf, "spark.helium.optimizer.enabled") &&
      HeliumConf.boolean(conf, s"spark.helium.optimizer.$name.enabled")
}
