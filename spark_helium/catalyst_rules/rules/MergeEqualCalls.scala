package org.apache.spark.sql.helium.rules

import scala.collection.mutable

import org.apache.spark.sql.catalyst.expressions._
import org.apache.spark.sql.catalyst.plans.logical.{LogicalPlan, Project}
import org.apache.spark.sql.catalyst.rules.Rule
import org.apache.spark.sql.helium.HeliumRule
import org.apache.spark.sql.helium.expressions.LLMCall
import org.apache.spark.sql.helium.plans.EvalLLM

/**
 * Equal deterministic calls of one `EvalLLM` node become one call.
 *
 * {{{
 *   Project [llm#1, llm#2]                     Project [llm#1, llm#1 AS llm#2]
 *   +- EvalLLM [llm#1 = llm('..', x),     =>   +- EvalLLM [llm#1 = llm('..', x)]
 *               llm#2 = llm('..', x)]
 * }}}
 *
 * Calls are equal when function, template, options and arguments are; a call that reads a merged
 * call reads what it became, so that equal chains merge link by link. Never merges calls with a
 * temperature and no seed: each is a draw of its own.
 */
object MergeEqualCalls extends Rule[LogicalPlan] {

  override def apply(plan: LogicalPlan): LogicalPlan = {
    if (!HeliumRule.enabled(conf, "mergeEqualCalls")) {
      plan
    } else {
      plan.transformUp { case node: EvalLLM => merge(node) }
    }
  }

  private def merge(node: EvalLLM): LogicalPlan = {
    val kept = mutable.ArrayBuffer.empty[(LLMCall, Attribute)]
    val became = mutable.Map.empty[ExprId, Attribute]
    node.calls.zip(node.answers).foreach { case (call, answer) =>
      val resolved = call.copy(arguments = call.arguments.map(_.transform {
        case a: Attribute => became.getOrElse(a.exprId, a)
      }))
      val twin = kept.indexWhere { case (other, _) =>
        resolved.deterministic && other.semanticEquals(resolved)
      }
      if (twin < 0) {
        kept += resolved -> answer
      } else {
        val (one, first) = kept(twin)
        kept(twin) = one.copy(multiplicity = one.multiplicity + resolved.multiplicity) -> first
        became(answer.exprId) = first
      }
    }
    if (became.isEmpty) {
      node
    } else {
      val output = node.output.map { a =>
        became.get(a.exprId).fold[NamedExpression](a)(one => Alias(one, a.name)(exprId = a.exprId))
      }
      Project(output, node.copy(calls = kept.map(_._1).toSeq, answers = kept.map(_._2).toSeq))
    }
  }
}
