package org.apache.spark.sql.helium

import java.util.jar.JarFile

import scala.util.Using

import org.apache.spark.{SPARK_VERSION, SparkEnv}
import org.apache.spark.sql.SparkSessionExtensions
import org.apache.spark.sql.catalyst.optimizer.{CollapseProject, ColumnPruning, PushDownPredicates}
import org.apache.spark.sql.catalyst.plans.logical.LogicalPlan
import org.apache.spark.sql.catalyst.rules.Rule
import org.apache.spark.sql.helium.execution.{EvalLLMStrategy, QueryBudget}
import org.apache.spark.sql.helium.expressions.FunctionCatalog
import org.apache.spark.sql.helium.plans.EvalLLM
import org.apache.spark.sql.helium.rules._

/**
 * The one place where spark_helium is wired into Spark:
 * `spark.sql.extensions=org.apache.spark.sql.helium.HeliumExtensions`.
 *
 * {{{
 *   parse and analyse    functions of FunctionCatalog resolve to LLMCall expressions
 *   check                CheckLLMCallPlacement
 *   optimize, early      PrepareLLMCalls: RewriteSubqueriesWithCalls, RewriteAIAggregates,
 *                        RewriteTwoSidedJoinCalls, ExtractLLMCalls, FuseAdjacentCallGraphs,
 *                        MergeEqualCalls, GuardConditionalCalls (once, before Spark's operator rules
 *                        copy expressions)
 *   optimize             PushThroughEvalLLM, PruneUnusedCalls (to a fixed point, with Spark's own
 *                        push-down and column pruning)
 *   optimize, by cost    ArrangeLLMCalls: OrderFields, PlaceCallsByCost, FuseCallGraphs,
 *                        MergeEqualCalls, GuardConditionalCalls, DropImpliedGuards,
 *                        OrderLLMFilters, PruneUnusedCalls, ShareLLMSubplans, DeduplicateInputs,
 *                        PlaceByPrefix, MaterializeDraws, PaceForLimit (once, when Spark's operator
 *                        rules are done)
 *   plan                 EvalLLMStrategy: EvalLLM to EvalLLMExec, a shared subplan to an exchange
 * }}}
 */
class HeliumExtensions extends (SparkSessionExtensions => Unit) {

  override def apply(extensions: SparkSessionExtensions): Unit = {
    // First, and with nothing of Spark's that may differ: the rest may not even link.
    SparkCompatibility.check()
    HeliumErrors.register()
    // SparkEnv is there whenever a context is, which it is before a session is built.
    Option(SparkEnv.get).foreach(env => HeliumConf.validate(env.conf))

    FunctionCatalog.all.foreach(f => extensions.injectFunction(f.description))
    extensions.injectCheckRule(_ => CheckLLMCallPlacement)
    extensions.injectPreOperatorOptimizationRule(_ => PrepareLLMCalls)
    extensions.injectOptimizerRule(_ => PushThroughEvalLLM)
    extensions.injectOptimizerRule(_ => PruneUnusedCalls)
    extensions.injectPreCBORule(_ => ArrangeLLMCalls)
    extensions.injectPlannerStrategy(_ => EvalLLMStrategy)
  }
}

/** The early rules in their order; each leaves a plan without LLM calls as it is. */
private object PrepareLLMCalls extends Rule[LogicalPlan] {

  private val rules = Seq(
    RewriteSubqueriesWithCalls, RewriteAIAggregates, RewriteTwoSidedJoinCalls, ExtractLLMCalls,
    FuseAdjacentCallGraphs, MergeEqualCalls, GuardConditionalCalls)

  override def apply(plan: LogicalPlan): LogicalPlan = rules.foldLeft(plan)((p, rule) => rule(p))
}

/**
 * The late rules in their order. What moves calls comes first, what looks at the whole query next, and
 * what decides where rows go last: an exchange in between would hide one node from another.
 */
private object ArrangeLLMCalls extends Rule[LogicalPlan] {

  private val rules = Seq(
    OrderFields, PlaceCallsByCost, CollapseProject, PushThroughEvalLLM, PushDownPredicates, ColumnPruning,
    GuardConditionalCalls, FuseCallGraphs, // a filter that becomes a guard must not hide where the answer is read
    CollapseProject, PushDownPredicates, CollapseProject,
    MergeEqualCalls, GuardConditionalCalls, DropImpliedGuards, MergeEqualCalls, OrderLLMFilters, PruneUnusedCalls,
    ColumnPruning, ShareLLMSubplans, DeduplicateInputs, PlaceByPrefix, ColumnPruning,
    MaterializeDraws, PaceForLimit)

  override def apply(plan: LogicalPlan): LogicalPlan =
    if (plan.exists(_.isInstanceOf[EvalLLM])) {
      val arranged = rules.foldLeft(plan)((p, rule) => rule(p))
      val explained = fixedPoint.foldLeft(arranged)((p, rule) => rule.explained(p))
      QueryBudget.noted(RewriteAIAggregates.explained(explained))
    } else {
      plan
    }

  /** Rules that say why they declined when they are done. */
  private val fixedPoint = Seq[HeliumRule](MergeEqualCalls, PushThroughEvalLLM)
}

/** Refuses a Spark that the jar was not built for, before anything fails to link. */
private object SparkCompatibility {

  def check(): Unit = manifest.foreach { case (version, built) =>
    if (minor(built) != minor(SPARK_VERSION)) {
      throw HeliumErrors.incompatibleSpark(version, built, SPARK_VERSION)
    }
  }

  private def minor(version: String): Seq[String] = version.split('.').take(2).toSeq

  /** Our version and Spark's, from the jar's manifest; none where classes are in a folder. */
  private def manifest: Option[(String, String)] = {
    val location = getClass.getProtectionDomain.getCodeSource.getLocation
    if (!location.getPath.endsWith(".jar")) {
      None
    } else {
      Using.resource(new JarFile(new java.io.File(location.toURI))) { jar =>
        for {
          attributes <- Option(jar.getManifest).map(_.getMainAttributes)
          version <- Option(attributes.getValue("Implementation-Version"))
          built <- Option(attributes.getValue("Spark-Version"))
        } yield (version, built)
      }
    }
  }
}
