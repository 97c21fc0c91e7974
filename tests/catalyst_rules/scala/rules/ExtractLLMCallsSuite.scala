package org.apache.spark.sql.helium.rules

import org.apache.spark.sql.catalyst.expressions._
import org.apache.spark.sql.catalyst.expressions.aggregate._
import org.apache.spark.sql.catalyst.plans._
import org.apache.spark.sql.catalyst.plans.logical._
import org.apache.spark.sql.helium.expressions.{LLMCall, SamplingOptions}
import org.apache.spark.sql.helium.testing.PlanSuite
import org.apache.spark.sql.types._

class ExtractLLMCallsSuite extends PlanSuite {

  private val question = call("Good? {0}", body)

  private def extract(plan: LogicalPlan): LogicalPlan = {
    val result = ExtractLLMCalls(plan)
    equal(ExtractLLMCalls(result) eq result, true, "a second run must do nothing")
    equal(result.output.map(_.exprId), plan.output.map(_.exprId), "the output must stay")
    result
  }

  test("a plan without calls is the same object") {
    val plan = Project(Seq(id), Filter(yes(body), relation))
    equal(ExtractLLMCalls(plan) eq plan, true)
  }

  test("SELECT list") {
    val a = answer(question)
    samePlan(extract(Project(Seq(id, Alias(question, "q")()), relation)),
      Project(Seq(id, Alias(a, "q")()), eval(question -> a)(relation)))
  }

  test("WHERE keeps its output") {
    val a = answer(question)
    samePlan(extract(Filter(yes(question), relation)),
      Project(relation.output, Filter(yes(a), eval(question -> a)(relation))))
  }

  test("ORDER BY") {
    val a = answer(question)
    samePlan(extract(Sort(Seq(SortOrder(question, Ascending)), global = true, relation)),
      Project(relation.output,
        Sort(Seq(SortOrder(a, Ascending)), global = true, eval(question -> a)(relation))))
  }

  test("equal calls with a temperature stay two calls") {
    val draw = callWith(SamplingOptions(16, temperature = 1.0))("Draw {0}", body)
    val plan = extract(Project(Seq(Alias(draw, "a")(), Alias(draw, "b")()), relation))
    equal(plan.collect { case e: org.apache.spark.sql.helium.plans.EvalLLM => e.calls.size },
      Seq(2))
  }

  test("a nested call shares the node, an expression between two calls splits it") {
    val a = answer(question)
    val outer = call("Why {0}?", a)
    val o = answer(outer)
    samePlan(extract(Project(Seq(Alias(call("Why {0}?", question), "w")()), relation)),
      Project(Seq(Alias(o, "w")()), eval(question -> a, outer -> o)(relation)))
    val upper = call("Why {0}?", Upper(a))
    val u = answer(upper)
    samePlan(extract(Project(Seq(Alias(call("Why {0}?", Upper(question)), "w")()), relation)),
      Project(Seq(Alias(u, "w")()), eval(upper -> u)(eval(question -> a)(relation))))
  }

  test("inside an aggregate function below, over its result above") {
    val longest = Max(question).toAggregateExpression()
    val a = answer(question)
    val above = call("Explain {0}", longest)
    val plan = Aggregate(Seq(id), Seq(id, Alias(longest, "m")(), Alias(above, "e")()), relation)
    val m = Alias(Max(a).toAggregateExpression(), "m")()
    val explained = call("Explain {0}", m.toAttribute)
    val e = answer(explained)
    val actual = extract(plan)
    samePlan(actual,
      Project(Seq(id, m.toAttribute, Alias(e, "e")()),
        eval(explained -> e)(
          Aggregate(Seq(id), Seq(id, m), eval(question -> a)(relation)))))
  }

  test("join: one side below, both sides of an inner join above") {
    val other = LocalRelation(AttributeReference("key", IntegerType)(),
      AttributeReference("text", StringType)())
    val Seq(key, text) = other.output
    val a = answer(question)
    val cheap = EqualTo(id, key)
    samePlan(
      extract(Join(relation, other, LeftOuter, Some(And(cheap, yes(question))), JoinHint.NONE)),
      Project(relation.output ++ other.output,
        Join(eval(question -> a)(relation), other, LeftOuter, Some(And(cheap, yes(a))),
          JoinHint.NONE)))
    val pair = call("{0} {1}", body, text)
    val p = answer(pair)
    samePlan(
      extract(Join(relation, other, Inner, Some(And(cheap, yes(pair))), JoinHint.NONE)),
      Project(relation.output ++ other.output,
        Filter(yes(p),
          eval(pair -> p)(Join(relation, other, Inner, Some(cheap), JoinHint.NONE)))))
  }

  test("an argument that can fail is computed where the text asks for it") {
    val quotient = Cast(Divide(Literal(1.0), Cast(id, DoubleType)), StringType)
    val asked = Not(EqualTo(id, Literal(0)))
    val ask = call("Good? {0}", quotient)
    val nested = call("Why {0}?", CaseWhen(Seq(asked -> ask), None))
    val isAsked = EqualNullSafe(asked, Literal.TrueLiteral)
    def argument(e: Expression): Seq[Expression] =
      extract(Project(Seq(Alias(e, "x")()), relation)).collect {
        case n: org.apache.spark.sql.helium.plans.EvalLLM => n.calls.flatMap(_.arguments)
      }.flatten.filter(_.exists(_.isInstanceOf[Divide]))
    val safe = If(isAsked, quotient, Literal(null, StringType))
    equal(argument(CaseWhen(Seq(asked -> ask), None)), Seq(safe))
    equal(argument(nested), Seq(safe))
    equal(argument(ask), Seq(quotient))
  }

  test("no call is left behind anywhere") {
    val everywhere = Project(Seq(Alias(question, "q")()),
      Filter(Or(yes(question), GreaterThan(id, Literal(3))),
        Sort(Seq(SortOrder(question, Descending)), global = false, relation)))
    val left = extract(everywhere).collect {
      case e: org.apache.spark.sql.helium.plans.EvalLLM => Nil
      case other => other.expressions.filter(LLMCall.isIn)
    }.flatten
    equal(left, Nil)
  }
}
