package org.apache.spark.sql.helium.rules

import org.apache.spark.sql.catalyst.expressions._
import org.apache.spark.sql.catalyst.plans._
import org.apache.spark.sql.catalyst.plans.logical._
import org.apache.spark.sql.helium.expressions.{LLMCall, SamplingOptions}
import org.apache.spark.sql.helium.testing.PlanSuite
import org.apache.spark.sql.types._

class RewriteTwoSidedJoinCallsSuite extends PlanSuite {

  private val other = LocalRelation(AttributeReference("key", IntegerType)(),
    AttributeReference("text", StringType)())
  private val Seq(key, text) = other.output
  private val cheap = EqualTo(id, key)
  private val pair = call("{0} {1}", body, text)

  private def join(joinType: JoinType, condition: Expression): Join =
    Join(relation, other, joinType, Some(condition), JoinHint.NONE)

  private def rewritten(plan: Join): LogicalPlan = {
    val result = RewriteTwoSidedJoinCalls(plan)
    equal(result.output.map(_.exprId), plan.output.map(_.exprId), "the output must stay")
    equal(RewriteTwoSidedJoinCalls(result), result, "a second run must change nothing")
    result
  }

  private def joinsWithCalls(plan: LogicalPlan): Seq[JoinType] = plan.collect {
    case j: Join if j.condition.exists(LLMCall.isIn) => j.joinType
  }

  test("outer, semi and anti joins keep no call in their condition") {
    Seq(LeftOuter, RightOuter, FullOuter, LeftSemi, LeftAnti).foreach { joinType =>
      val result = rewritten(join(joinType, And(cheap, yes(pair))))
      equal(joinsWithCalls(result), Nil, joinType.sql)
      val filters = result.collect { case f: Filter if LLMCall.isIn(f.condition) => f }
      equal(filters.size, if (joinType == FullOuter) 2 else 1, joinType.sql)
      equal(filters.forall(_.child.isInstanceOf[Aggregate]), true, "distinct pairs only")
    }
  }

  test("inner joins and one-sided calls are left to ExtractLLMCalls") {
    Seq(join(Inner, yes(pair)), join(LeftOuter, And(cheap, yes(call("{0}", body))))).foreach { j =>
      equal(RewriteTwoSidedJoinCalls(j) eq j, true)
    }
  }

  test("declines where a side may not be the same twice, or values cannot be compared") {
    def declined(left: LogicalPlan, condition: Expression): Boolean =
      RewriteTwoSidedJoinCalls.declines(
        Join(left, other, LeftOuter, Some(condition), JoinHint.NONE)).isDefined
    val random = Project(relation.output :+ Alias(Rand(Literal(1L)), "r")(), relation)
    equal(declined(relation, yes(pair)), false)
    equal(declined(random, yes(pair)), true)
    equal(declined(Limit(Literal(1), relation), yes(pair)), true)
    val sorted = Sort(Seq(SortOrder(id, Ascending)), global = true, relation)
    equal(declined(Limit(Literal(1), sorted), yes(pair)), false)
    val ratio = AttributeReference("ratio", DoubleType)()
    equal(declined(LocalRelation(relation.output :+ ratio),
      And(yes(pair), Or(GreaterThan(ratio, Literal(0.5)), yes(pair)))), true)
  }

  test("a call with a temperature is not computed from other rows' values") {
    val draw = callWith(SamplingOptions(16, temperature = 1.0))("{0} {1}", body, text)
    val plan = join(LeftOuter, And(cheap, yes(draw)))
    equal(RewriteTwoSidedJoinCalls(plan) eq plan, true)
  }
}
