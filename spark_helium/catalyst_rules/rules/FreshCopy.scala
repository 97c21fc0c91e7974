package org.apache.spark.sql.helium.rules

import org.apache.spark.sql.catalyst.analysis.MultiInstanceRelation
import org.apache.spark.sql.catalyst.expressions._
import org.apache.spark.sql.catalyst.plans.ExistenceJoin
import org.apache.spark.sql.catalyst.plans.logical._
import org.apache.spark.sql.helium.expressions.LLMCall
import org.apache.spark.sql.helium.plans.EvalLLM

/**
 * A second copy of a plan beside the first: every attribute that the plan produces gets a new id.
 */
private[rules] object FreshCopy {

  /** The copy, and its attribute for each attribute of the original's output. */
  def apply(plan: LogicalPlan): (LogicalPlan, AttributeMap[Attribute]) = {
    val copy = plan.transformUpWithNewOutput {
      case relation: LogicalPlan with MultiInstanceRelation =>
        val fresh = relation.newInstance()
        fresh -> relation.output.zip(fresh.output)
      case p: Project => rename(p, p.copy(projectList = p.projectList.map(newId)))
      case a: Aggregate =>
        rename(a, a.copy(aggregateExpressions = a.aggregateExpressions.map(newId)))
      case w: Window => rename(w, w.copy(windowExpressions = w.windowExpressions.map(newId)))
      case g: Generate => rename(g, g.copy(generatorOutput = g.generatorOutput.map(_.newInstance())))
      case j @ Join(_, _, ExistenceJoin(exists), _, _) =>
        rename(j, j.copy(joinType = ExistenceJoin(exists.newInstance())))
      case e: Expand => rename(e, e.copy(output = e.output.map(_.newInstance())))
      case e: EvalLLM => 
        val fresh = AttributeMap(e.answers.map(a => a -> a.newInstance()))
        val calls = e.calls.map(_.mapChildren(_.transform {
          case a: Attribute => fresh.getOrElse(a, a)
        }).asInstanceOf[LLMCall])
        rename(e, e.copy(calls = calls, answers = e.answers.map(fresh)))
      case node if node.producedAttributes.nonEmpty =>
        // Python and typed operators name what they produce in a list of attributes.
        val fresh = AttributeMap(node.producedAttributes.toSeq.map(a => a -> a.newInstance()))
        rename(node, node.mapExpressions(_.transform {
          case a: Attribute => fresh.getOrElse(a, a)
        }))
    }
    (copy, AttributeMap(plan.output.zip(copy.output)))
  }

  /** Whether a plan gives the same rows when it is computed twice. */
  def isRepeatable(plan: LogicalPlan): Boolean = notRepeatable(plan).isEmpty

  /** Why computing a plan twice could give other rows; None when it cannot. */
  def notRepeatable(plan: LogicalPlan): Option[String] =
    if (plan.isStreaming) Some("is a stream")
    else if (!plan.deterministic) Some("is not deterministic")
    else if (plan.exists(takesSomeRows)) Some("takes some rows of many without an order")
    else None

  /**
   * Whether a plan gives the same rows also where ties decide, or where Spark cuts the copy's partitions
   * in another way. What is done for speed alone asks for this.
   */
  def isStable(plan: LogicalPlan): Boolean = isRepeatable(plan) && !plan.exists {
    case _: Window | _: GlobalLimit | _: LocalLimit | _: Offset => true
    case _ => false
  }

  private def takesSomeRows(plan: LogicalPlan): Boolean = plan match {
    case _: Sample => true
    case GlobalLimit(_, LocalLimit(_, _: Sort)) | GlobalLimit(_, _: Sort) => false
    case LocalLimit(_, _: Sort) => false
    case _: GlobalLimit | _: LocalLimit | _: Offset | _: Tail => true
    case _ => false
  }

  private def newId(e: NamedExpression): NamedExpression = e match {
    case alias: Alias => Alias(alias.child, alias.name)(
      qualifier = alias.qualifier, explicitMetadata = alias.explicitMetadata,
      nonInheritableMetadataKeys = alias.nonInheritableMetadataKeys)
    case other => other
  }

  private def rename(
      before: LogicalPlan, after: LogicalPlan): (LogicalPlan, Seq[(Attribute, Attribute)]) =
    after -> before.output.zip(after.output).filter { case (a, b) => a.exprId != b.exprId }
}
