package org.apache.spark.sql.helium.rules

import org.apache.spark.sql.catalyst.expressions._
import org.apache.spark.sql.catalyst.plans._
import org.apache.spark.sql.catalyst.plans.logical._
import org.apache.spark.sql.helium.expressions.SamplingOptions
import org.apache.spark.sql.helium.testing.PlanSuite
import org.apache.spark.sql.types._

class PushThroughEvalLLMSuite extends PlanSuite {

  private val question = call("Good? {0}", body)
  private val a = answer(question)
  private val node = eval(question -> a)(relation)
  private val cheap = GreaterThan(id, Literal(3))

  private def push(plan: LogicalPlan): LogicalPlan = {
    val result = PushThroughEvalLLM(plan)
    equal(PushThroughEvalLLM(result), result, "idempotent")
    equal(result.output.map(_.exprId), plan.output.map(_.exprId), "the output must stay")
    result
  }

  private def stays(plan: LogicalPlan): Unit = equal(push(plan) eq plan, true, plan.toString)

  test("a filter that reads no answer goes below, the rest stays") {
    samePlan(push(Filter(And(yes(a), cheap), node)),
      Filter(yes(a), eval(question -> a)(Filter(cheap, relation))))
    samePlan(push(Filter(cheap, node)), eval(question -> a)(Filter(cheap, relation)))
  }

  test("what follows a conjunct that is not deterministic stays") {
    val random = LessThan(Rand(Literal(1L)), Literal(0.5))
    stays(Filter(And(random, cheap), node))
    samePlan(push(Filter(And(cheap, random), node)),
      Filter(random, eval(question -> a)(Filter(cheap, relation))))
  }

  test("limits, also through a projection") {
    val three = Literal(3)
    samePlan(push(LocalLimit(three, node)), eval(question -> a)(LocalLimit(three, relation)))
    samePlan(push(Limit(three, Project(Seq(id, Alias(a, "q")()), node))),
      Project(Seq(id, Alias(a, "q")()), eval(question -> a)(Limit(three, relation))))
    samePlan(push(Offset(three, node)), eval(question -> a)(Offset(three, relation)))
  }

  test("sorts by other columns, and the limit above them") {
    val byTitle = Seq(SortOrder(title, Descending))
    val plan = Limit(Literal(3), Sort(byTitle, global = true, Project(Seq(title, a), node)))
    samePlan(push(plan), Project(Seq(title, a),
      eval(question -> a)(Limit(Literal(3), Sort(byTitle, global = true, relation)))))
    stays(Sort(Seq(SortOrder(a, Ascending)), global = true, node))
  }

  test("windows that read no answer, also through a projection") {
    def row(order: Expression): Alias = Alias(WindowExpression(RowNumber(), WindowSpecDefinition(
      Seq(title), Seq(SortOrder(order, Ascending)),
      SpecifiedWindowFrame(RowFrame, UnboundedPreceding, CurrentRow))), "r")()
    val byId = Seq(SortOrder(id, Ascending))
    val r = row(id)
    samePlan(push(Window(Seq(r), Seq(title), byId, node)),
      Project(node.output :+ r.toAttribute,
        eval(question -> a)(Window(Seq(r), Seq(title), byId, relation))))
    samePlan(push(Window(Seq(r), Seq(title), byId, Project(Seq(id, title, a), node))),
      Project(Seq(id, title, a, r.toAttribute),
        eval(question -> a)(Window(Seq(r), Seq(title), byId, relation))))
    stays(Window(Seq(row(a)), Seq(title), Seq(SortOrder(a, Ascending)), node))
    val draw = callWith(SamplingOptions(16, temperature = 1.0))("Draw {0}", body)
    stays(Window(Seq(r), Seq(title), byId, eval(draw -> answer(draw))(relation)))
  }

  test("semi and anti joins that read no answer; other joins stay") {
    val other = LocalRelation(AttributeReference("key", IntegerType)())
    val on = EqualTo(id, other.output.head)
    Seq(LeftSemi, LeftAnti).foreach { joinType =>
      samePlan(push(Join(node, other, joinType, Some(on), JoinHint.NONE)),
        eval(question -> a)(Join(relation, other, joinType, Some(on), JoinHint.NONE)))
    }
    stays(Join(node, other, LeftSemi, Some(And(on, yes(a))), JoinHint.NONE))
    stays(Join(node, other, LeftOuter, Some(on), JoinHint.NONE))
  }

  test("samples without replacement only") {
    samePlan(push(Sample(0, 0.5, withReplacement = false, 1, node)),
      eval(question -> a)(Sample(0, 0.5, withReplacement = false, 1, relation)))
    stays(Sample(0, 0.5, withReplacement = true, 1, node))
  }

  test("nothing moves below a call with a temperature") {
    val draw = callWith(SamplingOptions(16, temperature = 1.0))("Draw {0}", body)
    val drawn = eval(draw -> answer(draw))(relation)
    stays(Filter(cheap, drawn))
    stays(LocalLimit(Literal(3), drawn))
    Seq(Filter(cheap, drawn), LocalLimit(Literal(3), drawn)).foreach { plan =>
      equal(PushThroughEvalLLM.explained(plan).collect {
        case e: org.apache.spark.sql.helium.plans.EvalLLM => e.notes.map(_.rule)
      }, Seq(Seq("PushThroughEvalLLM")))
    }
  }

  test("switched off") {
    Seq("spark.helium.optimizer.enabled", "spark.helium.optimizer.pushThroughEvalLLM.enabled")
      .foreach(key => withSetting(key, "false")(stays(Filter(cheap, node))))
  }
}
