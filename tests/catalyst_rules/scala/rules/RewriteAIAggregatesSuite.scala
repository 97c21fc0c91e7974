package org.apache.spark.sql.helium.rules

import org.apache.spark.sql.catalyst.expressions._
import org.apache.spark.sql.catalyst.expressions.aggregate._
import org.apache.spark.sql.catalyst.plans.logical._
import org.apache.spark.sql.catalyst.plans.physical.ClusteredDistribution
import org.apache.spark.sql.helium.execution.NumberedPartitioning
import org.apache.spark.sql.helium.expressions._
import org.apache.spark.sql.helium.expressions.functions.Aggregates
import org.apache.spark.sql.helium.plans.{EvalLLM, NumberPartitions}
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
    val Project(_, node @ EvalLLM(calls, _, a: Aggregate, _, _)) = plan: @unchecked
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

  test("partitions first: by key and partition without an exchange, then by key") {
    val agg = aiAgg(body).copy(partial = true)
    val plan = rewrite(aggregate(agg.toAggregateExpression(), agg.toAggregateExpression()))
    val Aggregate(Seq(key), _, Project(_, Aggregate(keys, texts, n: NumberPartitions, _)), _) = plan: @unchecked
    equal((key, keys), (id, Seq(id, n.partition)))
    equal(texts.count(_.exists(_.isInstanceOf[CollectList])), 1, "equal ones share their partial answers")
    equal(plan.collect { case p => p.expressions.flatMap(_.collect { case c: LLMCall => c.prompt }) }.flatten.collect {
      case Unrolled(program, _, _, _, _) => program
    }.distinct, Seq(Combine(0), Reduce(0, withinPartition = true)))
    val numbered = NumberedPartitioning(n.partition, 4)
    equal(numbered.satisfies(ClusteredDistribution(Seq(id, n.partition))), true)
    equal(numbered.satisfies(ClusteredDistribution(Seq(id))), false)
    equal(numbered.satisfies(ClusteredDistribution(Seq(id, n.partition), requireAllClusterKeys = true)), false)
  }

  test("a filter by the key passes what numbers the rows, a filter by the number does not") {
    def filtered(plan: LogicalPlan, condition: Expression): LogicalPlan =
      PushThroughEvalLLM(PushThroughEvalLLM(
        eval(call("{0}", body) -> answer(call("{0}", body)))(Filter(condition, plan))))
    val plain = rewrite(aggregate(aiAgg(body).toAggregateExpression())).children.head
    val partial = rewrite(aggregate(aiAgg(body).copy(partial = true).toAggregateExpression())).collectFirst {
      case n: NumberPartitions => n
    }.get
    val byKey = EqualTo(id, Literal(1))
    Seq(plain, partial).foreach { numbering =>
      val pushed = filtered(numbering, byKey)
      equal(pushed.collect { case f: Filter => f.condition -> f.child }, Seq(byKey -> relation))
      val byNumber = IsNotNull(numbering.output.last)
      equal(filtered(numbering, byNumber).children.head, Filter(byNumber, numbering))
    }
    val users = Project(Seq(id, body, Alias(MonotonicallyIncreasingID(), "order")()), relation)
    equal(filtered(users, byKey).children.head, Filter(byKey, users), "a number that the query sees")
  }
}
