package org.apache.spark.sql.helium.statistics

import scala.collection.mutable

import org.apache.spark.sql.catalyst.expressions.{Attribute, ExprId, Expression, Literal}
import org.apache.spark.sql.catalyst.plans.logical.LogicalPlan
import org.apache.spark.sql.helium.expressions._
import org.apache.spark.sql.helium.plans.EvalLLM

/**
 * What one call of a node is expected to ask of a model; nothing where it asks none.
 *
 * @param calls rows that reach the call, times the calls that it stands for
 * @param distinct different prompts among them: what the engine answers
 * @param promptTokens of one prompt
 * @param outputTokens of one answer, at most
 * @param prefixTokens of one prompt that all rows share: the template's text before its first slot
 */
case class CallEstimate(
    calls: Estimate,
    distinct: Estimate,
    promptTokens: Double,
    outputTokens: Double,
    prefixTokens: Double) {

  def totalPromptTokens: Double = distinct.value * promptTokens

  def sharedPrefixTokens: Double = (distinct.value - 1).max(0) * prefixTokens
}

object CallEstimate {

  private val nothing = Estimate(0, measured = true)

  /** Of a call that asks no model. */
  val none: CallEstimate = CallEstimate(nothing, nothing, promptTokens = 0, outputTokens = 0, prefixTokens = 0)
}

/**
 * The cost of LLM calls in tokens.
 *
 * A prompt of a query is answered once however many rows ask it, so that what costs is the number of
 * ''distinct'' prompts times their tokens. Every row that asks costs [[CallEstimates.perRow]] beside it: the way
 * through Arrow, the daemon and its caches.
 */
class CallEstimates(val plans: PlanEstimates = new PlanEstimates) {

  def of(node: EvalLLM): Seq[CallEstimate] = {
    val rows = plans.rows(node.child)
    node.calls.map { call => if (call.options.task.usesModel) ofModel(call, node, rows) else CallEstimate.none }
  }

  private def ofModel(call: LLMCall, node: EvalLLM, rows: Estimate): CallEstimate = {
    val reach = call.guard.fold(rows)(g => rows * plans.selectivity(g, node))
    val each = unrolled(call, node).fold(1.0)(_.calls)
    CallEstimate(
      calls = reach * each,
      distinct = distinctInputs(call, node).atMost(reach) * each,
      promptTokens = promptTokens(call, node),
      outputTokens = plans.outputTokens(call),
      prefixTokens = prefixTokens(call, node))
  }

  /** Tokens of one row of a call, prompt and answer. */
  def tokens(call: LLMCall, plan: LogicalPlan): Double =
    (promptTokens(call, plan) + plans.outputTokens(call)) * unrolled(call, plan).fold(1.0)(_.calls)

  /** What a call over an array stands for; None for a single call. */
  private def unrolled(call: LLMCall, plan: LogicalPlan): Option[UnrolledEstimate] = call.prompt match {
    case prompt: Unrolled => Some(new UnrolledEstimates(plans).of(call, prompt, plan))
    case _ => None
  }

  /** Different prompts of a call: its arguments, and those of the answers that it reads. */
  def distinctInputs(call: LLMCall, node: EvalLLM): Estimate =
    plans.distinct(inputsOf(call, node), node.child)

  /** The values below the node that a call's prompt depends on. */
  private def inputsOf(call: LLMCall, node: EvalLLM): Seq[Expression] = {
    val answers = node.answers.map(_.exprId).zip(node.calls).toMap
    val seen = mutable.Set.empty[ExprId]
    val found = mutable.ArrayBuffer.empty[Expression]

    // Each answer once: a conversation reads all answers before it, again and again.
    def open(e: Expression): Unit =
      if (!e.references.exists(a => answers.contains(a.exprId))) {
        if (!found.exists(_.semanticEquals(e))) found += e
      } else {
        e.references.toSeq.foreach { a: Attribute =>
          answers.get(a.exprId) match {
            case Some(read) => if (seen.add(a.exprId)) read.arguments.foreach(open)
            case None => open(a)
          }
        }
      }
    call.arguments.foreach(open)
    found.toSeq
  }

  private def promptTokens(call: LLMCall, plan: LogicalPlan): Double =
    unrolled(call, plan).fold(singlePromptTokens(call, plan))(_.promptTokens)

  private def singlePromptTokens(call: LLMCall, plan: LogicalPlan): Double = {
    val fixed = call.prompt match {
      case Messages(messages) => messages.flatMap(_.content.parts).collect {
        case Text(value) => value.length.toDouble
      }.sum
      case _ => 0.0
    }
    val filled = call.prompt.slots.map(i => plans.textLength(call.arguments(i), plan)).sum
    call.options.task match {
      case TokenCount => 0
      case Embedding => Tokens.of(fixed + filled)
      case _ => Tokens.of(fixed + filled) + Tokens.chatOverhead
    }
  }

  private def prefixTokens(call: LLMCall, plan: LogicalPlan): Double = call.prompt match {
    case Messages(messages) =>
      val parts = messages.flatMap(_.content.parts)
      Tokens.of(parts.takeWhile {
        case Text(_) => true
        case Slot(i) => call.arguments(i).isInstanceOf[Literal]
        case _ => false
      }.collect { case Text(value) => value.length.toDouble }.sum)
    case _: Unrolled => unrolled(call, plan).fold(0.0)(_.prefixTokens)
    case ConversationColumn(_) => 0.0
  }
}

object CallEstimates {

  /** What a row costs beside the engine, in tokens: about 30 microseconds. */
  val perRow = 0.05
}
