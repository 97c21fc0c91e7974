package org.apache.spark.sql.helium.plans

import org.apache.spark.sql.catalyst.expressions._
import org.apache.spark.sql.catalyst.plans.QueryPlan
import org.apache.spark.sql.catalyst.plans.logical.{LogicalPlan, UnaryNode}
import org.apache.spark.sql.helium.expressions.LLMCall

/**
 * Adds the answers of LLM calls to each row of its child: one call graph.
 *
 * The calls stand in topological order. An argument of a call is an expression over the child's
 * output, or, with nothing around it, the answer of an earlier call of this node. Order and number
 * of rows stay as they are.
 *
 * Calls and answers stand side by side, as in Spark's own Python evaluation, and not as aliases:
 * Spark takes aliases apart in any operator that it does not know.
 *
 * @param calls the calls
 * @param answers the attribute that holds the answer of each call
 */
case class EvalLLM(calls: Seq[LLMCall], answers: Seq[Attribute], child: LogicalPlan)
  extends UnaryNode {

  override lazy val output: Seq[Attribute] = child.output ++ answers

  override lazy val producedAttributes: AttributeSet = AttributeSet(answers)

  override def maxRows: Option[Long] = child.maxRows

  override def maxRowsPerPartition: Option[Long] = child.maxRowsPerPartition

  // Spark numbers what comes from below; a call that reads an answer of this node needs more.
  override protected def doCanonicalize(): LogicalPlan = {
    val (canonicalCalls, canonicalAnswers) = EvalLLM.canonicalized(calls, answers, child.output)
    EvalLLM(canonicalCalls, canonicalAnswers, child.canonicalized)
  }

  override def simpleString(maxFields: Int): String =
    s"EvalLLM [${EvalLLM.describe(calls, answers)}]"

  override protected def withNewChildInternal(newChild: LogicalPlan): EvalLLM =
    copy(child = newChild)
}

object EvalLLM {

  /** A fresh attribute for the answer of a call. */
  def answerOf(call: LLMCall): Attribute =
    AttributeReference(call.function, call.dataType, call.nullable)()

  /** Calls and answers with ids that say only where a value comes from. */
  def canonicalized(
      calls: Seq[LLMCall],
      answers: Seq[Attribute],
      input: Seq[Attribute]): (Seq[LLMCall], Seq[Attribute]) = {
    val all: AttributeSeq = input ++ answers
    def positioned[E <: Expression](e: E): E = QueryPlan.normalizeExpressions(e, all)
    (calls.map(c => positioned(c).canonicalized.asInstanceOf[LLMCall]), answers.map(positioned(_)))
  }

  /** The calls as EXPLAIN shows them. */
  def describe(calls: Seq[LLMCall], answers: Seq[Attribute], between: String = ", "): String =
    calls.zip(answers).map { case (call, answer) =>
      val merged = if (call.multiplicity > 1) s" (for ${call.multiplicity} equal calls)" else ""
      val when = call.guard.fold("")(g => s" when $g")
      s"$answer = ${call.describe}$when$merged"
    }.mkString(between)
}
