package org.apache.spark.sql.helium.rules

import org.apache.spark.sql.catalyst.expressions._
import org.apache.spark.sql.catalyst.expressions.aggregate._
import org.apache.spark.sql.catalyst.plans.logical._
import org.apache.spark.sql.helium.expressions._
import org.apache.spark.sql.helium.expressions.functions.Aggregates
import org.apache.spark.sql.helium.plans.EvalLLM
import org.apache.spark.sql.helium.testing.PlanSuite
import org.apache.spark.sql.types.StringType

class RewriteAIAggregatesSuite extends PlanSuite {

  private val builder = Aggregates.functions.find(_.name == "ai_agg").get.builder

  private def aiAgg(content: Expression, instruction: String = "Sum up."): AIAgg =
    builder(Seq(content, Literal(instruction))).asInstanceOf[AIAgg]

  private def aggregate(functions: Expression*): Aggregate =
    Aggregate(Seq(id), id +: functions.map(Alias(_, "a")()), relation)

  private def rewrite(plan: LogicalPlan): LogicalPlan = {
    val result = RewriteAIAggregates(plan)
    equal(RewriteAIAggregates(result) eq result, true, "a second run must do nothing")
    equal(result.output.map(_.exprId), plan.output.map(_.exprId), "the output must stay")
    equal(result.exists(_.expressions.exists(AIAgg.isIn)), false)
    result
  }

  private def collected(plan: LogicalPlan): Seq[AggregateExpression] = plan.collect {
    case a: Aggregate => a.aggregateExpressions.flatMap(_.collect {
      case f @ AggregateExpression(_: CollectList, _, _, _, _) => f
    })
  }.flatten

  test("an aggregate without a model is the same object") {
    val plan = aggregate(Count(Literal(1)).toAggregateExpression())
    equal(RewriteAIAggregates(plan) eq plan, true)
  }

  test("it becomes a call over the texts in the order of the rows") {
    val plan = rewrite(aggregate(aiAgg(body).toAggregateExpression(),
      Count(Literal(1)).toAggregateExpression()))
    val Aggregate(_, list, Project(below, child), _) = plan: @unchecked
    equal(child, relation)
    val Seq(Alias(MonotonicallyIncreasingID(), "order")) = below.drop(relation.output.size): @unchecked
    val calls = list.flatMap(_.collect { case c: LLMCall => c })
    equal(calls.size, 1)
    val Seq(f) = collected(plan): @unchecked
    equal(f.filter, Some(IsNotNull(body)))
    equal(f.aggregateFunction.children.head.children.filter(_.isInstanceOf[Attribute]),
      Seq(below.last.toAttribute, body))
  }

  test("the node stands above the aggregate, and equal aggregates share what is collected") {
    val plan = ExtractLLMCalls(rewrite(aggregate(aiAgg(body).toAggregateExpression(),
      aiAgg(body, "Count.").toAggregateExpression(), aiAgg(title).toAggregateExpression())))
    val Project(_, node @ EvalLLM(calls, _, a: Aggregate, _)) = plan: @unchecked
    equal(calls.size, 3)
    equal(a.aggregateExpressions.count(_.exists(_.isInstanceOf[CollectList])), 2, node.toString)
  }

  test("a call among the texts runs below") {
    val named = call("Name it: {0}", body)
    val plan = ExtractLLMCalls(rewrite(aggregate(aiAgg(named).toAggregateExpression())))
    equal(plan.collect { case e: EvalLLM => e.calls.map(_.function) }, Seq(Seq("ai_agg"), Seq("llm")))
    val draw = callWith(SamplingOptions(16, temperature = 1.0))("Draw {0}", body)
    val draws = ExtractLLMCalls(rewrite(aggregate(aiAgg(draw).toAggregateExpression(),
      aiAgg(draw).toAggregateExpression())))
    equal(draws.collect { case e: EvalLLM => e.calls.count(_.function == "llm") }, Seq(0, 2))
  }

  test("FILTER stays, DISTINCT keeps the first of equal texts") {
    val condition = GreaterThan(id, Literal(3))
    val plan = rewrite(aggregate(
      aiAgg(body).toAggregateExpression(isDistinct = true, filter = Some(condition))))
    val Seq(f) = collected(plan): @unchecked
    val Seq(text) = plan.collect { case Project(list, _) => list.last }.collect {
      case alias: Alias => alias
    }: @unchecked
    equal(text.child, If(condition, body, Literal(null, StringType)))
    equal((f.isDistinct, f.filter), (false, Some(IsNotNull(text.toAttribute))))
    equal(plan.expressions.exists(_.exists {
      case c: LLMCall => c.arguments.head.isInstanceOf[ArrayDistinct]
      case _ => false
    }), true)
  }
}
