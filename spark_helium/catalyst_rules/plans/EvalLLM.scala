package org.apache.spark.sql.helium.plans

import java.util.{ArrayList => JArrayList}

import scala.util.control.NonFatal

import org.apache.spark.sql.catalyst.expressions._
import org.apache.spark.sql.catalyst.plans.QueryPlan
import org.apache.spark.sql.catalyst.plans.logical._
import org.apache.spark.sql.catalyst.plans.logical.statsEstimation.EstimationUtils
import org.apache.spark.sql.helium.expressions.{Choices, LLMCall}
import org.apache.spark.sql.helium.statistics.{CallEstimates, PlanEstimates}

/**
 * What a rule did to a node, or why it left it as it is.
 *
 * @param routine whether this is the usual case, which only a report shows
 */
case class RuleNote(rule: String, applied: Boolean, text: String, routine: Boolean = false)

/**
 * Adds the answers of LLM calls to each row of its child: one call graph.
 *
 * The calls stand in topological order. Arguments and guards are expressions over the child's output
 * and the answers of earlier calls. What can be told to the node daemon (see [[Glue]]) travels in one
 * call graph; around anything else the node is divided when it is planned (see [[CallLevels]]). Order
 * and number of rows stay as they are.
 *
 * Calls and answers stand side by side, as in Spark's own Python evaluation, and not as aliases:
 * Spark takes aliases apart in any operator that it does not know.
 *
 * @param calls the calls
 * @param answers the attribute that holds the answer of each call
 * @param notes what the rules did here and why one declined, for EXPLAIN
 * @param pace how many rows to ask first, where a limit above wants few; equal nodes may differ in it
 */
case class EvalLLM(
    calls: Seq[LLMCall],
    answers: Seq[Attribute],
    child: LogicalPlan,
    notes: Seq[RuleNote] = Nil,
    pace: Option[Pace] = None)
  extends UnaryNode {

  override lazy val output: Seq[Attribute] = child.output ++ answers

  override lazy val producedAttributes: AttributeSet = AttributeSet(answers)

  override def maxRows: Option[Long] = child.maxRows

  override def maxRowsPerPartition: Option[Long] = child.maxRowsPerPartition

  override def outputOrdering: Seq[SortOrder] = child.outputOrdering

  /** The child's statistics and, for the answers, how many and how long they are expected to be. */
  override def stats: Statistics = statsCache.getOrElse {
    val below = child.stats
    val plans = new PlanEstimates
    val ofAnswers = calls.zip(answers).map { case (call, answer) =>
      // Spark takes statistics for facts: only what is known goes there.
      val values = plans.distinct(Seq(answer), this)
      val length = call.options.constraint.collect { case Choices(c) => c.map(_.length).max.toLong }
      answer -> ColumnStat(
        distinctCount = Option.when(values.measured)(BigInt(values.value.toLong.max(1))),
        avgLen = length, maxLen = length)
    }
    val attributes = AttributeMap(below.attributeStats.toSeq ++ ofAnswers)
    val width = (of: Seq[Attribute]) => EstimationUtils.getSizePerRow(of, attributes)
    val size = (BigDecimal(below.sizeInBytes) * BigDecimal(width(output)) /
      BigDecimal(width(child.output))).toBigInt
    val result = Statistics(size, below.rowCount, attributes)
    statsCache = Some(result)
    result
  }

  // Spark numbers what comes from below; a call that reads an answer of this node needs more.
  override protected def doCanonicalize(): LogicalPlan = {
    val (canonicalCalls, canonicalAnswers) = EvalLLM.canonicalized(calls, answers, child.output)
    EvalLLM(canonicalCalls, canonicalAnswers, child.canonicalized)
  }

  /** What the calls are expected to ask for, in a line. Once: Spark describes the plan of every query that runs. */
  lazy val estimate: String = EvalLLM.estimate(this)

  /** Other calls in place of these; the node goes when there is none. */
  def withCalls(kept: Seq[(LLMCall, Attribute)]): LogicalPlan =
    if (kept.isEmpty) child else copy(calls = kept.map(_._1), answers = kept.map(_._2))

  /** The node with a note; the same object when it has the note. */
  def noted(note: RuleNote): EvalLLM =
    if (notes.contains(note)) this else copy(notes = notes :+ note)

  override def simpleString(maxFields: Int): String = s"EvalLLM ${EvalLLM.count(calls.size)}"

  override def generateTreeString(
      depth: Int,
      lastChildren: JArrayList[Boolean],
      append: String => Unit,
      verbose: Boolean,
      prefix: String,
      addSuffix: Boolean,
      maxFields: Int,
      printNodeId: Boolean,
      printOutputColumns: Boolean,
      indent: Int): Unit =
    super.generateTreeString(depth, lastChildren,
      CallLines.after(append, depth, lastChildren, indent, CallLines(calls, answers, EvalLLM.shown(notes, pace))),
      verbose, prefix, addSuffix, maxFields, printNodeId, printOutputColumns, indent)

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
    val canonical = calls.zip(answers).map { case (c, answer) =>
      val call = positioned(c).canonicalized.asInstanceOf[LLMCall]
      // A draw is like no other: an exchange with it must not stand in for another one.
      if (c.deterministic) call else call.copy(written = Set(s"draw ${answer.exprId.id}"))
    }
    (canonical, answers.map(positioned(_)))
  }

  /** The notes that EXPLAIN shows of a node. */
  def shown(notes: Seq[RuleNote], pace: Option[Pace]): Seq[RuleNote] =
    notes ++ pace.map(p => RuleNote("PaceForLimit", applied = true, p.toString))

  def count(calls: Int): String = if (calls == 1) "1 call" else s"$calls calls"

  /** What the calls are expected to ask for, in a line; empty where it cannot be told. */
  private def estimate(node: EvalLLM): String =
    try {
      val each = new CallEstimates().of(node)
      val known = if (each.forall(_.distinct.measured)) "" else " (some by default)"
      f"${each.map(_.calls.value).sum}%,.0f calls, ${each.map(_.distinct.value).sum}%,.0f prompts, " +
        f"${each.map(_.totalPromptTokens).sum}%,.0f prompt tokens, " +
        f"${each.map(_.sharedPrefixTokens).sum}%,.0f of them in shared prefixes$known"
    } catch {
      case NonFatal(_) => "" // an estimate must never be what ends a query
    }
}
