package org.apache.spark.sql.helium.rules

import org.apache.spark.sql.catalyst.expressions._
import org.apache.spark.sql.catalyst.expressions.Literal.{FalseLiteral, TrueLiteral}
import org.apache.spark.sql.helium.expressions.{LLMCall, Predicates}

/**
 * The condition under which anybody looks at the answer of a call.
 *
 * It follows from where the answer stands: the conditions of CASE and IF branches, NULLs before it in
 * COALESCE, the other side of AND not being false and of OR not being true. Each part is never NULL
 * itself, so that three-valued logic stays as it is. Where something cannot be told, the condition
 * is weaker, which is always right: the call runs for more rows.
 */
private[rules] object ReadCondition {

  /**
   * The condition of each call, from the expressions that read the answers. An answer that another
   * call reads is looked at where that one runs. A condition reads `input` and earlier answers.
   *
   * An answer that is NULL because its own condition does not hold may stand in another condition:
   * that one holds the outer condition as well, and is not true either way.
   *
   * @param calls in topological order, with the attributes of their answers
   */
  def of(
      calls: Seq[(LLMCall, Attribute)],
      input: AttributeSet,
      readers: Seq[Expression]): Seq[Expression] = {
    val found = new Array[Expression](calls.size)
    calls.indices.reverse.foreach { i =>
      val (call, answer) = calls(i)
      val known = input ++ AttributeSet(calls.take(i).map(_._2))
      val need = new Need(answer, known)
      val byCalls = calls.drop(i + 1).zip(found.drop(i + 1)).collect {
        case ((reader, _), _) if reader.guard.exists(_.references.contains(answer)) => TrueLiteral
        case ((reader, _), runs) if reader.references.contains(answer) =>
          val parts = Predicates.conjuncts(reader.guard.getOrElse(runs)).map(allowed(_, known))
          and(conjunction(parts), disjunction(reader.arguments.map(need(_))))
      }
      found(i) = if (call.guard.isDefined) TrueLiteral
        else disjunction(readers.map(need(_)) ++ byCalls)
    }
    found.toSeq
  }

  private def allowed(condition: Expression, known: AttributeSet): Expression =
    if (Predicates.isMovable(condition) && condition.references.subsetOf(known)) condition
    else TrueLiteral

  /** When the value of an expression depends on an answer: false if never, true if always. */
  private class Need(answer: Attribute, known: AttributeSet) {

    def apply(e: Expression): Expression = e match {
      case a: Attribute => if (a.exprId == answer.exprId) TrueLiteral else FalseLiteral
      case _ if !reads(e) => FalseLiteral
      case CaseWhen(branches, otherwise) =>
        val conditions = branches.map(_._1)
        // Only for what reads the answer: with a call in each of many branches that is one of them.
        def before(i: Int): Expression = conjunction(conditions.take(i).map(isNotTrue))
        val inBranches = branches.zipWithIndex.flatMap { case ((c, v), i) =>
          Option.when(reads(c))(and(before(i), apply(c))) ++
            Option.when(reads(v))(conjunction(Seq(before(i), isTrue(c), apply(v))))
        }
        val inElse = otherwise.filter(reads).map(v => and(before(conditions.size), apply(v)))
        disjunction(inBranches ++ inElse)
      case If(c, yes, no) =>
        disjunction(Seq(apply(c), and(isTrue(c), apply(yes)), and(isNotTrue(c), apply(no))))
      case Coalesce(children) =>
        disjunction(children.indices.map { i =>
          and(conjunction(children.take(i).map(c => holds(IsNull(c)))), apply(children(i)))
        })
      case And(left, right) if !reads(left) => and(isNotFalse(left), apply(right))
      case And(left, right) if !reads(right) => and(isNotFalse(right), apply(left))
      case Or(left, right) if !reads(left) => and(isNotTrue(left), apply(right))
      case Or(left, right) if !reads(right) => and(isNotTrue(right), apply(left))
      case other => disjunction(other.children.map(apply))
    }

    private def reads(e: Expression): Boolean = e.references.contains(answer)

    private def holds(condition: Expression): Expression = allowed(condition, known)
    private def isTrue(c: Expression): Expression = holds(EqualNullSafe(c, TrueLiteral))
    private def isNotTrue(c: Expression): Expression = holds(Not(EqualNullSafe(c, TrueLiteral)))
    private def isNotFalse(c: Expression): Expression = holds(Not(EqualNullSafe(c, FalseLiteral)))
  }

  private def and(a: Expression, b: Expression): Expression = conjunction(Seq(a, b))

  private def conjunction(parts: Seq[Expression]): Expression =
    if (parts.contains(FalseLiteral)) FalseLiteral
    else Predicates.conjunction(parts.filterNot(_ == TrueLiteral).distinct).getOrElse(TrueLiteral)

  private def disjunction(parts: Seq[Expression]): Expression =
    if (parts.contains(TrueLiteral)) TrueLiteral
    else parts.filterNot(_ == FalseLiteral).distinct.reduceOption(Or).getOrElse(FalseLiteral)
}
