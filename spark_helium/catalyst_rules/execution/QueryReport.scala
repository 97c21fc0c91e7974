package org.apache.spark.sql.helium.execution

import org.json4s._
import org.json4s.jackson.JsonMethods

import org.apache.spark.sql.catalyst.expressions.{Expression, Literal}
import org.apache.spark.sql.classic.SparkSession
import org.apache.spark.sql.execution.{QueryExecution, SQLExecution}
import org.apache.spark.sql.execution.adaptive.AdaptiveSparkPlanHelper
import org.apache.spark.sql.helium.{HeliumErrors, RuleTrace}
import org.apache.spark.sql.helium.expressions._
import org.apache.spark.sql.helium.plans.{CallLines, EvalLLM, RuleNote}
import org.apache.spark.sql.helium.statistics.CallEstimates
import org.apache.spark.sql.internal.SQLConf
import org.apache.spark.unsafe.types.UTF8String

/**
 * `helium_explain(view, analyze)`: what the optimizer makes of a view's query, as JSON; the Python
 * side's way to a report on classic and Connect sessions. With `analyze` the query runs, its rows go
 * nowhere, and what each node counted stands beside what was expected.
 */
object QueryReport extends AdaptiveSparkPlanHelper {

  val function = "helium_explain"

  def build(arguments: Seq[Expression]): Expression =
    arguments.map(OptionReader.constant) match {
      case Seq(Some(view: UTF8String), Some(analyze: Boolean)) =>
        Literal(JsonMethods.compact(of(view.toString, analyze)))
      case other => throw HeliumErrors.templateArguments(function, "",
        s"it takes the name of a view and true or false, and got ${other.size} arguments")
    }

  private def of(view: String, analyze: Boolean): JValue = {
    val session = SparkSession.active
    val query = session.table(view).queryExecution.analyzed
    val off = SQLConf.get.clone()
    off.setConfString("spark.helium.optimizer.enabled", "false")
    val before = SQLConf.withExistingConf(off)(session.sessionState.executePlan(query).optimizedPlan)
    val execution = session.sessionState.executePlan(query)
    val (after, did) = RuleTrace.collecting(execution.optimizedPlan)
    val nodes = after.collectWithSubqueries { case node: EvalLLM => node }
    val actual = if (analyze) run(execution) else Nil
    JObject(
      "before" -> JString(before.treeString),
      "after" -> JString(after.treeString),
      "did" -> JArray(did.toList.map(note)),
      "templates" -> JArray(templates(nodes).toList),
      "nodes" -> JArray(nodes.toList.map(n => JObject(
        "calls" -> JArray(describe(n).toList),
        "declined" -> JArray(n.notes.filterNot(_.applied).toList.map(note)),
        "actual" -> actualOf(n, actual)))))
  }

  /** The prompts of all calls, each once per function and model, in the order of the plan. */
  private def templates(nodes: Seq[EvalLLM]): Seq[JValue] =
    nodes.flatMap(_.calls).map(c => (c.function, c.options.model, templateOf(c.prompt))).distinct.map {
      case (function, model, template) => JObject("function" -> JString(function),
        "model" -> JString(model), "template" -> JString(template))
    }

  private def templateOf(prompt: PromptSpec): String = prompt match {
    case Messages(Seq(MessageTemplate("user", content))) => content.sql
    case Messages(messages) => messages.map(m => s"${m.role}: ${m.content.sql}").mkString("\n")
    case ConversationColumn(_) => "(a conversation that is a column)"
    case unrolled: Unrolled => unrolled.shown.mkString("\n")
  }

  private def note(n: RuleNote): JValue =
    JObject("rule" -> JString(n.rule), "text" -> JString(n.text))

  private def describe(node: EvalLLM): Seq[JValue] = {
    val estimates = new CallEstimates().of(node)
    node.calls.indices.map { i =>
      val e = estimates(i)
      JObject(
        "call" -> JString(CallLines(Seq(node.calls(i)), Seq(node.answers(i)), Nil).mkString(" ")),
        "multiplicity" -> JInt(node.calls(i).multiplicity),
        "calls" -> JDouble(e.calls.value),
        "distinct" -> JDouble(e.distinct.value),
        "prompt_tokens" -> JDouble(e.totalPromptTokens),
        "prefix_tokens" -> JDouble(e.sharedPrefixTokens),
        "measured" -> JBool(e.distinct.measured && e.calls.measured))
    }
  }

  /** What the nodes of the physical plan counted that stand for a node of the logical plan. */
  private def actualOf(node: EvalLLM, ran: Seq[EvalLLMExec]): JValue = {
    val own = ran.filter(_.answers.exists(a => node.answers.exists(_.exprId == a.exprId)))
    if (own.isEmpty) JNull
    else JObject((UsageCounters.names :+ "numOutputRows").toList.map { name =>
      name -> JInt(own.flatMap(_.metrics.get(name)).map(_.value).sum)
    })
  }

  private def run(execution: QueryExecution): Seq[EvalLLMExec] = {
    SQLExecution.withNewExecutionId(execution, Some(function)) {
      execution.executedPlan.execute().foreach(_ => ())
    }
    collectWithSubqueries(execution.executedPlan) { case e: EvalLLMExec => e }
  }
}
