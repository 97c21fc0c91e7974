package org.apache.spark.sql.helium.rules

import org.apache.spark.sql.catalyst.expressions._
import org.apache.spark.sql.catalyst.plans.logical._
import org.apache.spark.sql.helium.HeliumRule
import org.apache.spark.sql.helium.plans.EvalLLM

/**
 * A call whose answer matters only in one branch runs only for the rows that take the branch.
 *
 * {{{
 *   Project [CASE WHEN id < 100 THEN llm#1 END]
 *   +- EvalLLM [llm#1 = llm('..', x)]
 * =>
 *   Project [CASE WHEN id < 100 THEN llm#1 END]
 *   +- EvalLLM [llm#1 = llm('..', x) when (id < 100) <=> true]
 * }}}
 *
 * The guard of a call is the condition under which any expression that reads its answer depends on
 * it: the conditions of CASE and IF branches, NULLs before it in COALESCE, the other side of AND not
 * being false and of OR not being true. Each part is never NULL itself, so that three-valued logic
 * stays as it is. Where the guard is not true the answer is NULL, and nobody looks.
 *
 * Declines for a condition that reads another answer, is not deterministic, or holds a subquery, and
 * for an answer that leaves the operator above as it is.
 */
object GuardConditionalCalls extends HeliumRule("guardConditionalCalls") {

  override protected def rewrite(plan: LogicalPlan): LogicalPlan = plan.transformDown {
    case p @ Project(list, node: EvalLLM) =>
      guarded(node, list)(n => p.copy(child = n)).getOrElse(p)
    case p @ Project(list, f @ Filter(condition, node: EvalLLM)) =>
      guarded(node, condition +: list)(n => p.copy(child = f.copy(child = n))).getOrElse(p)
    case a @ Aggregate(keys, list, node: EvalLLM, _) =>
      guarded(node, keys ++ list)(n => a.copy(child = n)).getOrElse(a)
  }

  private def guarded(node: EvalLLM, readers: Seq[Expression])(
      rebuild: EvalLLM => LogicalPlan): Option[LogicalPlan] = {
    val calls = node.calls.zip(node.answers).map { case (call, answer) =>
      val readByCalls = node.calls.exists(_.references.contains(answer))
      if (call.guard.isDefined || readByCalls) {
        call
      } else {
        disjunction(readers.map(need(_, answer, node))) match {
          case Literal.TrueLiteral | Literal.FalseLiteral => call
          case guard => call.copy(guard = Some(guard))
        }
      }
    }
    if (calls == node.calls) {
      None
    } else {
      calls.zip(node.calls).zip(node.answers).foreach { case ((after, before), answer) =>
        if (after.guard != before.guard) did(s"$answer runs when ${after.guard.mkString}")
      }
      Some(rebuild(node.copy(calls = calls)))
    }
  }

  /** When the value of `e` depends on `answer`: false if never, true if always or not known. */
  private def need(e: Expression, answer: Attribute, node: EvalLLM): Expression = {
    def reads(x: Expression): Boolean = x.references.contains(answer)
    def recurse(x: Expression): Expression = need(x, answer, node)

    // Weaker than asked is always right: the call runs for more rows.
    def known(condition: Expression): Expression =
      if (condition.deterministic && !SubqueryExpression.hasSubquery(condition) &&
        condition.references.subsetOf(node.child.outputSet)) condition
      else Literal.TrueLiteral

    def isTrue(c: Expression): Expression = known(EqualNullSafe(c, Literal.TrueLiteral))
    def isNotTrue(c: Expression): Expression = known(Not(EqualNullSafe(c, Literal.TrueLiteral)))
    def isNotFalse(c: Expression): Expression = known(Not(EqualNullSafe(c, Literal.FalseLiteral)))

    e match {
      case a: Attribute => if (a.exprId == answer.exprId) Literal.TrueLiteral else Literal.FalseLiteral
      case _ if !reads(e) => Literal.FalseLiteral
      case CaseWhen(branches, otherwise) =>
        val conditions = branches.map(_._1)
        val before = conditions.indices.map(i => conjunction(conditions.take(i).map(isNotTrue)))
        val inConditions = conditions.zip(before).map { case (c, b) => and(b, recurse(c)) }
        val inValues = branches.zip(before).map { case ((c, v), b) =>
          conjunction(Seq(b, isTrue(c), recurse(v)))
        }
        val inElse = otherwise.map(v => and(conjunction(conditions.map(isNotTrue)), recurse(v)))
        disjunction(inConditions ++ inValues ++ inElse)
      case If(c, yes, no) =>
        disjunction(Seq(recurse(c), and(isTrue(c), recurse(yes)), and(isNotTrue(c), recurse(no))))
      case Coalesce(children) =>
        disjunction(children.indices.map { i =>
          and(conjunction(children.take(i).map(c => known(IsNull(c)))), recurse(children(i)))
        })
      case And(left, right) if !reads(left) => and(isNotFalse(left), recurse(right))
      case And(left, right) if !reads(right) => and(isNotFalse(right), recurse(left))
      case Or(left, right) if !reads(left) => and(isNotTrue(left), recurse(right))
      case Or(left, right) if !reads(right) => and(isNotTrue(right), recurse(left))
      case other => disjunction(other.children.map(recurse))
    }
  }

  private def and(a: Expression, b: Expression): Expression = conjunction(Seq(a, b))

  private def conjunction(parts: Seq[Expression]): Expression =
    if (parts.contains(Literal.FalseLiteral)) Literal.FalseLiteral
    else parts.filterNot(_ == Literal.TrueLiteral).reduceOption(And).getOrElse(Literal.TrueLiteral)

  private def disjunction(parts: Seq[Expression]): Expression =
    if (parts.contains(Literal.TrueLiteral)) Literal.TrueLiteral
    else parts.filterNot(_ == Literal.FalseLiteral).distinct.reduceOption(Or)
      .getOrElse(Literal.FalseLiteral)
}
