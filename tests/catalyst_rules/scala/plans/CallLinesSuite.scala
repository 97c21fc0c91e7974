package org.apache.spark.sql.helium.plans

import org.apache.spark.sql.catalyst.expressions._
import org.apache.spark.sql.catalyst.plans.logical.Filter
import org.apache.spark.sql.helium.expressions.LLMCall
import org.apache.spark.sql.helium.expressions.functions.Folds
import org.apache.spark.sql.helium.testing.PlanSuite

class CallLinesSuite extends PlanSuite {

  test("EXPLAIN shows each call below its node, in 80 columns") {
    val question = call("Is the text that follows calm, or is it rather angry? Text: {0}", body)
    val a = answer(question)
    val node = eval(question.copy(guard = Some(IsNotNull(title)), multiplicity = 2) -> a)(relation)
    val lines = Filter(yes(a), node.noted(RuleNote("SomeRule", applied = false, "it must not")))
      .treeString.linesIterator.toSeq
    equal(lines.filter(_.length > 80), Nil)
    equal(lines.map(_.replaceAll("#\\d+", "#")), Seq(
      "Filter (llm# = yes)",
      "+- EvalLLM 1 call",
      "   |  llm# = llm('Is the text that follows calm, or is it rather angry? Text:",
      "   |    {0}', body#, model => 'smollm2-135m', max_tokens => 16) (for 2 equal",
      "   |    calls)",
      "   |    when isnotnull(title#)",
      "   |  SomeRule: declined, it must not",
      "   +- LocalRelation <empty>, [id#, body#, title#]"))
  }

  test("a call over an array shows the user's own texts") {
    val fold = Folds.functions.head.builder(Seq(CreateArray(Seq(body, title)),
      Literal("Sum up: {0}"), Literal("{0} And: {1}"))).asInstanceOf[LLMCall]
    equal(CallLines(Seq(fold), Seq(answer(fold)), Nil).map(_.replaceAll("#\\d+", "#")), Seq(
      "llm_fold# = llm_fold(array(body#, title#), 'Sum up: {0}', '{0} And: {1}', " +
        "model => 'smollm2-135m', max_tokens => 256)"))
  }
}
