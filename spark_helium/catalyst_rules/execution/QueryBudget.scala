package org.apache.spark.sql.helium.execution

import java.util.{Collections, LinkedHashMap => JLinkedHashMap, Map => JMap}

import org.apache.spark.SparkContext
import org.apache.spark.sql.catalyst.plans.logical.LogicalPlan
import org.apache.spark.sql.execution.SQLExecution
import org.apache.spark.sql.helium.{HeliumConf, HeliumErrors}
import org.apache.spark.sql.helium.plans.EvalLLM
import org.apache.spark.sql.helium.statistics.{Estimate, QueryEstimate}
import org.apache.spark.sql.internal.SQLConf

/**
 * The budget of a query, `spark.helium.budget.*`, as far as the driver sees it. Each node's daemon counts what the
 * query's tasks use there, exactly; the driver looks
 *
 *  - before the query's first call: what it is expected to ask, if statistics or data alone say so. An
 *    estimate in which a default took part stops nothing: it can be wrong by any factor.
 *  - before each further stage with calls: what the finished tasks of all nodes used, by the session's
 *    counters. Other queries of the session that run at the same time are counted as well.
 */
object QueryBudget {

  private val calls = "spark.helium.budget.maxCalls"
  private val tokens = "spark.helium.budget.maxTokens"

  private val mostExecutions = 1000

  /** The session's counters when an execution's first node began. */
  private val baselines: JMap[String, Array[Long]] = Collections.synchronizedMap(
    new JLinkedHashMap[String, Array[Long]] {
      override def removeEldestEntry(eldest: JMap.Entry[String, Array[Long]]): Boolean =
        size > mostExecutions
    })

  /** Tells each node of a plan what the whole query is expected to ask, if there is a budget. */
  def noted(plan: LogicalPlan): LogicalPlan = {
    if (limit(SQLConf.get, calls) > 0 || limit(SQLConf.get, tokens) > 0) {
      val estimate = QueryEstimate.of(plan)
      plan.collectWithSubqueries { case node: EvalLLM => node }
        .foreach(_.setTagValue(QueryEstimate.tag, estimate))
    }
    plan
  }

  /**
   * Called before a node's first row.
   *
   * @throws HELIUM_BUDGET_EXCEEDED
   */
  def check(expected: Option[QueryEstimate], context: SparkContext, conf: SQLConf): Unit = {
    val (mostCalls, mostTokens) = (limit(conf, calls), limit(conf, tokens))
    if (mostCalls > 0 || mostTokens > 0) {
      expected.foreach { e =>
        refuse("calls", calls, e.calls, mostCalls)
        refuse("tokens", tokens, e.tokens, mostTokens)
      }
      val now = UsageCounters.of(conf, context).value
      Option(context.getLocalProperty(SQLExecution.EXECUTION_ID_KEY)).foreach { execution =>
        val before = Option(baselines.putIfAbsent(s"${context.applicationId} $execution", now)).getOrElse(now)
        def used(name: String): Long = {
          val i = UsageCounters.names.indexOf(name)
          now(i) - before(i)
        }
        stop("calls", calls, used("calls_sent"), mostCalls)
        stop("tokens", tokens, used("prompt_tokens") + used("output_tokens"), mostTokens)
      }
    }
  }

  private def refuse(what: String, key: String, expected: Estimate, most: Long): Unit =
    if (most > 0 && expected.measured && expected.value > most) {
      throw HeliumErrors.budgetExceeded(f"it is expected to need ${expected.value}%,.0f $what, by statistics and " +
        f"data of its tables and not by defaults, and $key is $most%,d. No call was made. Raise the budget, or ask " +
        "for less: filter rows before the calls, or use LIMIT. spark_helium.explain() shows the estimate of each call")
    }

  private def stop(what: String, key: String, used: Long, most: Long): Unit =
    if (most > 0 && used > most) {
      throw HeliumErrors.budgetExceeded(f"its stages so far used $used%,d $what on all nodes, and $key is $most%,d. " +
        "Their answers are in the prompt caches of the nodes. Raise the budget, or ask for less")
    }

  private def limit(conf: SQLConf, key: String): Long = HeliumConf.long(conf, key)
}
