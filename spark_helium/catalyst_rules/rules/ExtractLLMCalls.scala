package org.apache.spark.sql.helium.rules

import scala.collection.mutable

import org.apache.spark.sql.catalyst.expressions._
import org.apache.spark.sql.catalyst.expressions.aggregate.AggregateExpression
import org.apache.spark.sql.catalyst.plans.{Cross, Inner, InnerLike}
import org.apache.spark.sql.catalyst.plans.logical._
import org.apache.spark.sql.catalyst.rules.Rule
import org.apache.spark.sql.helium.HeliumErrors
import org.apache.spark.sql.helium.expressions.{CannotFail, LLMCall, Predicates}
import org.apache.spark.sql.helium.plans.EvalLLM

/**
 * Takes every LLM call out of the expression it stands in, into an `EvalLLM` node below.
 *
 * {{{
 *   Filter (llm('..{0}', body) = 'yes')          Project [body]
 *   +- Relation [body]                      =>   +- Filter (llm#1 = 'yes')
 *                                                   +- EvalLLM [llm#1 = llm('..{0}', body)]
 *                                                      +- Relation [body]
 * }}}
 *
 * Where the call stands decides where its node goes:
 *  - SELECT list, WHERE, ORDER BY, window and generator inputs, grouping sets: below the operator.
 *  - Aggregate: calls inside an aggregate function below; calls over its results above.
 *  - Join condition: a call over one side, below that side. A call over both sides of an inner
 *    join, in a Filter above. Over both sides of any other join: see
 *    [[RewriteTwoSidedJoinCalls]], which runs first, as does [[RewriteSubqueriesWithCalls]].
 *  - An argument that can fail, and stands in a branch, is computed for the rows that take the branch.
 *  - A nested call whose argument is exactly the inner call shares the node; one with an expression
 *    around the inner call gets a second node above the first.
 *
 * Runs before Spark's own operator rules, because those copy expressions when they collapse
 * projections and push filters, and each copy would be a call. It always runs; without it a call
 * could not be evaluated at all. Calls are not merged here, so that a call with a temperature is
 * made as often as it was written.
 */
object ExtractLLMCalls extends Rule[LogicalPlan] {

  override def apply(plan: LogicalPlan): LogicalPlan = {
    if (!plan.exists(hasCalls)) {
      plan
    } else {
      plan.transformUp { case node if hasCalls(node) => extract(node) }
    }
  }

  /** Whether an expression of this node, leaving subquery plans aside, holds a call. */
  private def hasCalls(node: LogicalPlan): Boolean = node match {
    case _: EvalLLM => false
    case _ => node.expressions.exists(LLMCall.isIn)
  }

  private def extract(node: LogicalPlan): LogicalPlan = node match {
    case a: Aggregate if a.aggregateExpressions.exists(hasCallAbove) =>
      apply(splitAggregate(a))
    case j: Join => extractFromJoin(j)
    case unary: UnaryNode => extractFromUnary(unary)
    case other =>
      val call = LLMCall.firstIn(other.expressions).get
      throw HeliumErrors.callPlacement(call.function, other.nodeName,
        "this operator has no single input to compute it on", "Write the answers to a table first, and read that here.")
  }

  private def extractFromUnary(node: UnaryNode): LogicalPlan = {
    val collected = new Collector
    val files = new FileFunctions
    val rewritten = node.mapExpressions(e => collected.extract(files.replace(e)))
    withOutputOf(node,
      rewritten.withNewChildren(Seq(
        collected.over(files.over(node.child), rewritten.expressions))))
  }

  /** Operators that pass their input through now pass the answers too: nobody asked for those. */
  private def withOutputOf(before: LogicalPlan, after: LogicalPlan): LogicalPlan =
    if (after.output.map(_.exprId) == before.output.map(_.exprId)) after
    else Project(before.output, after)

  /** A call that needs the aggregate's result: it is not inside an aggregate function. */
  private def hasCallAbove(e: Expression): Boolean = e match {
    case _: AggregateExpression => false
    case _: LLMCall => true
    case other => other.children.exists(hasCallAbove)
  }

  /**
   * Leaves grouping keys and aggregate functions in the Aggregate, and computes the rest in a
   * Project above, where calls see one row per group.
   */
  private def splitAggregate(a: Aggregate): LogicalPlan = {
    val below = mutable.ArrayBuffer.empty[NamedExpression]

    def keep(e: Expression): Attribute = {
      val known = below.collectFirst {
        case n @ Alias(child, _) if child.deterministic && child.semanticEquals(e) => n.toAttribute
        case n: Attribute if n.semanticEquals(e) => n
      }
      known.getOrElse {
        val named = e match {
          case attribute: Attribute => attribute
          case other => Alias(other, "aggregated")()
        }
        below += named
        named.toAttribute
      }
    }

    def lift(e: Expression): Expression = e match {
      case f: AggregateExpression => keep(f)
      case attribute: Attribute => keep(attribute)
      case key if a.groupingExpressions.exists(_.semanticEquals(key)) => keep(key)
      case s: SubqueryExpression => keep(s)
      case other => other.mapChildren(lift)
    }

    val above = a.aggregateExpressions.map {
      case named if hasCallAbove(named) => lift(named).asInstanceOf[NamedExpression]
      case attribute: Attribute => keep(attribute)
      case named =>
        below += named
        named.toAttribute
    }
    Project(above, a.copy(aggregateExpressions = below.toSeq))
  }

  private def extractFromJoin(join: Join): LogicalPlan = {
    val left = new Collector
    val right = new Collector

    def oneSided(e: Expression): Expression = e match {
      case s: SubqueryExpression => s
      case call: LLMCall =>
        val arguments = call.arguments.map(oneSided)
        val references = AttributeSet.fromAttributeSets(arguments.map(_.references))
        val nested = arguments.exists(LLMCall.isIn)
        if (nested) {
          call.copy(arguments = arguments)
        } else if (references.subsetOf(join.left.outputSet ++ left.answers)) {
          left.add(call.copy(arguments = arguments))
        } else if (references.subsetOf(join.right.outputSet ++ right.answers)) {
          right.add(call.copy(arguments = arguments))
        } else {
          call.copy(arguments = arguments)
        }
      case other => other.mapChildren(oneSided)
    }

    val condition = join.condition.map(oneSided)
    val rewritten = join.copy(
      left = left.over(join.left, condition.toSeq),
      right = right.over(join.right, condition.toSeq),
      condition = condition)
    val result = if (!condition.exists(LLMCall.isIn)) {
      rewritten
    } else {
      join.joinType match {
        case _: InnerLike =>
          val (above, within) = Predicates.conjuncts(condition.get).partition(LLMCall.isIn)
          val joinType = if (within.isEmpty && join.joinType == Inner) Cross else join.joinType
          apply(Filter(above.reduce(And),
            rewritten.copy(joinType = joinType, condition = within.reduceOption(And))))
        case other =>
          val call = LLMCall.firstIn(condition).get
          throw HeliumErrors.callInJoin(call.function, other.sql,
            RewriteTwoSidedJoinCalls.declines(join).getOrElse("it reads both sides"))
      }
    }
    withOutputOf(join, result)
  }

  /**
   * `input_file_name()` and its kin say which file the task reads right now. Above a node that reads
   * ahead that is a later file, so they move below it.
   */
  private class FileFunctions {

    private val below = mutable.ArrayBuffer.empty[Alias]

    def replace(e: Expression): Expression = e.transform {
      case f @ (_: InputFileName | _: InputFileBlockStart | _: InputFileBlockLength) =>
        below.find(_.child.semanticEquals(f)).getOrElse {
          val alias = Alias(f, f.prettyName)()
          below += alias
          alias
        }.toAttribute
    }

    def over(child: LogicalPlan): LogicalPlan =
      if (below.isEmpty) child else Project(child.output ++ below, child)
  }

  /** Gathers the calls of one operator, inner calls before the calls that read them. */
  private class Collector {

    private val calls = mutable.ArrayBuffer.empty[(LLMCall, Attribute)]

    def answers: AttributeSet = AttributeSet(calls.map(_._2))

    /** The expression with each call replaced by the attribute that will hold its answer. */
    def extract(e: Expression): Expression = e match {
      // The plan of a subquery was optimized on its own before this rule came.
      case s: SubqueryExpression => s
      case call: LLMCall => add(call.copy(arguments = call.arguments.map(extract)))
      case other => other.mapChildren(extract)
    }

    def add(call: LLMCall): Attribute = {
      val answer = EvalLLM.answerOf(call)
      calls += call -> answer
      answer
    }

    /**
     * The calls over `child`: one node, and one more for each expression between two calls.
     *
     * @param readers the expressions that the calls were taken from
     */
    def over(child: LogicalPlan, readers: Seq[Expression]): LogicalPlan = {
      val level = mutable.Map.empty[ExprId, Int]
      val guarded = withSafeArguments(child, readers)
      guarded.foreach { case (call, answer) =>
        val levels = call.arguments.flatMap {
          case a: Attribute => level.get(a.exprId)
          case e => e.references.toSeq.flatMap(r => level.get(r.exprId)).map(_ + 1)
        }
        level(answer.exprId) = levels.maxOption.getOrElse(0)
      }
      guarded.groupBy { case (_, answer) => level(answer.exprId) }.toSeq.sortBy(_._1)
        .foldLeft(child) { case (below, (_, sameLevel)) =>
          EvalLLM(sameLevel.map(_._1), sameLevel.map(_._2), below)
        }
    }

    /**
     * The calls, their arguments computed for the rows in which the text asks for them. Within an
     * expression Spark computes a branch for the rows that take it; out of it, a division by zero
     * that nobody asked for would end the query.
     */
    private def withSafeArguments(
        child: LogicalPlan, readers: Seq[Expression]): Seq[(LLMCall, Attribute)] =
      if (calls.forall(_._1.arguments.forall(CannotFail(_)))) {
        calls.toSeq
      } else {
        calls.toSeq.zip(ReadCondition.of(calls.toSeq, child.outputSet, readers)).map {
          case (pair, Literal.TrueLiteral | Literal.FalseLiteral) => pair
          case ((call, answer), condition) => call.copy(arguments = call.arguments.map { e =>
            if (CannotFail(e) || !e.deterministic) e else If(condition, e, Literal(null, e.dataType))
          }) -> answer
        }
      }
  }
}
