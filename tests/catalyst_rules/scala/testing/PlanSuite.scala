package org.apache.spark.sql.helium.testing

import org.apache.spark.sql.catalyst.expressions._
import org.apache.spark.sql.catalyst.plans.logical._
import org.apache.spark.sql.helium.expressions._
import org.apache.spark.sql.helium.plans.EvalLLM
import org.apache.spark.sql.internal.SQLConf
import org.apache.spark.sql.types._

/** Plans with LLM calls, and their comparison without regard to expression ids. */
abstract class PlanSuite extends HeliumSuite {

  protected val id = AttributeReference("id", IntegerType)()
  protected val body = AttributeReference("body", StringType)()
  protected val title = AttributeReference("title", StringType)()
  protected lazy val relation: LogicalPlan = LocalRelation(id, body, title)

  protected def call(template: String, args: Expression*): LLMCall =
    callWith(SamplingOptions(16))(template, args: _*)

  protected def callWith(sampling: SamplingOptions)(
      template: String, args: Expression*): LLMCall = LLMCall(
    "llm",
    Messages(Seq(MessageTemplate("user", PromptTemplate.parse(template).template))),
    args,
    LLMOptions("smollm2-135m", sampling))

  protected def eval(calls: (LLMCall, Attribute)*)(child: LogicalPlan): EvalLLM =
    EvalLLM(calls.map(_._1), calls.map(_._2), child)

  protected def answer(call: LLMCall): Attribute = EvalLLM.answerOf(call)

  protected def yes(e: Expression): Predicate = EqualTo(e, Literal("yes"))

  protected def withSetting[T](key: String, value: String)(body: => T): T = {
    val conf = new SQLConf
    conf.setConfString(key, value)
    SQLConf.withExistingConf(conf)(body)
  }

  /** The plan without the reasons that rules left on its nodes. */
  protected def withoutNotes(plan: LogicalPlan): LogicalPlan = plan.transform {
    case node: EvalLLM if node.notes.nonEmpty => node.copy(notes = Nil)
  }

  protected def samePlan(actual: LogicalPlan, expected: LogicalPlan): Unit = {
    val (left, right) = (normalized(actual), normalized(expected))
    if (left != right) {
      throw new AssertionError(s"plans differ\nexpected:\n$right\nactual:\n$left")
    }
  }

  /** Ids by order of appearance, so that equal shapes print alike. */
  private def normalized(plan: LogicalPlan): String = {
    val ids = scala.collection.mutable.LinkedHashMap.empty[String, String]
    "#\\d+".r.replaceAllIn(plan.treeString, m => ids.getOrElseUpdate(m.matched, s"#${ids.size}"))
      .linesIterator.map(_.replaceAll("\\s+$", "")).mkString("\n")
  }
}
