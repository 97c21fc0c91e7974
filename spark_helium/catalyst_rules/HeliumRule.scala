package org.apache.spark.sql.helium

import org.apache.spark.sql.catalyst.plans.logical.LogicalPlan
import org.apache.spark.sql.catalyst.rules.Rule
import org.apache.spark.sql.helium.plans.{EvalLLM, RuleNote}

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

  /**
   * The finished plan with the reasons of a rule that runs to a fixed point, where it may still apply
   * in a later round.
   */
  final def explained(plan: LogicalPlan): LogicalPlan = if (enabled) explain(plan) else plan

  protected def explain(plan: LogicalPlan): LogicalPlan = plan

  /** Says in the report what the rule did. */
  protected def did(text: => String): Unit =
    RuleTrace.record(RuleNote(title, applied = true, text))

  /** The node with the reason why the rule left it: for the report and, unless routine, EXPLAIN. */
  protected def declined(node: EvalLLM, reason: String, routine: Boolean = false): EvalLLM =
    node.noted(RuleNote(title, applied = false, reason, routine))

  private def title: String = getClass.getSimpleName.stripSuffix("$")

  /** Whether the session's switches let the rule run. */
  final def enabled: Boolean =
    HeliumConf.boolean(conf, "spark.helium.optimizer.enabled") &&
      HeliumConf.boolean(conf, s"spark.helium.optimizer.$name.enabled")
}
