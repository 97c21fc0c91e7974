package org.apache.spark.sql.helium.plans

import org.json4s.JArray

import org.apache.spark.sql.catalyst.expressions._
import org.apache.spark.sql.helium.expressions.LLMCall
import org.apache.spark.sql.helium.testing.PlanSuite
import org.apache.spark.sql.types._

class GlueSuite extends PlanSuite {

  private val question = call("Good? {0}", body)
  private val a = answer(question)
  private val answers = Map(a.exprId -> question)
  private val glue = new Glue(id => if (id == a.exprId) Some(0 -> question) else None, _ => 7)

  private def text(e: Expression): String =
    glue.text(e).fold("none")(parts => CallGraph.render(JArray(parts)).replace("\"", "'"))

  private def condition(e: Expression): String =
    glue.condition(e).fold("none")(c => CallGraph.render(c).replace("\"", "'"))

  test("texts") {
    Seq(
      a -> "[{'call':0}]",
      Upper(title) -> "[{'input':7}]",
      Literal("x") -> "[{'data':'x'}]",
      Literal("") -> "[{'data':''}]",
      Concat(Seq(Literal("<"), a, title)) -> "[{'data':'<'},{'call':0},{'input':7}]",
      Coalesce(Seq(a, Literal("-"))) -> "[{'first_of':[[{'call':0}],[{'data':'-'}]]}]",
      ConcatWs(Seq(Literal(", "), title, a)) ->
        "[{'join':[[{'input':7}],[{'call':0}]],'separator':', '}]",
      ConcatWs(Seq(Literal(", "), CreateArray(Seq(a, title)))) ->
        "[{'join':[[{'call':0}],[{'input':7}]],'separator':', '}]",
      FormatString(Literal("%s: %d%%"), a, id) ->
        "[{'first_of':[[{'call':0}],[{'data':'null'}]]},{'data':': '},{'input':7},{'data':'%'}]",
      FormatString(Literal("%2$s %1$s"), title, a) ->
        "[{'first_of':[[{'call':0}],[{'data':'null'}]]},{'data':' '},{'input':7}]",
      // Nothing, and still between what stands around it: text that meets may spell a control token.
      FormatString(Literal(""), a) -> "[{'data':''}]",
      Concat(Nil) -> "[{'input':7}]",
      Cast(a, StringType) -> "[{'call':0}]",
      Upper(a) -> "none",
      FormatString(Literal("%10s"), a) -> "none",
      ConcatWs(Seq(title, a)) -> "none",
      Concat(Seq(a, Upper(a))) -> "none"
    ).foreach { case (e, expected) => equal(text(e), expected, e.toString) }
  }

  test("conditions") {
    val isYes = "{'equal':[[{'call':0}],[{'data':'yes'}]]}"
    Seq(
      yes(a) -> isYes,
      And(yes(a), GreaterThan(id, Literal(3))) -> s"{'and':[$isYes,{'input':7}]}",
      Or(yes(a), Literal(null, BooleanType)) -> s"{'or':[$isYes,{'literal':null}]}",
      Not(yes(a)) -> s"{'not':$isYes}",
      IsNotNull(a) -> "{'not':{'is_null':[{'call':0}]}}",
      EqualNullSafe(yes(a), Literal.TrueLiteral) -> s"{'is_true':$isYes}",
      EqualNullSafe(a, Literal("x")) -> "{'null_safe_equal':[[{'call':0}],[{'data':'x'}]]}",
      And(yes(a), And(IsNotNull(a), Not(yes(a)))) ->
        s"{'and':[$isYes,{'not':{'is_null':[{'call':0}]}},{'not':$isYes}]}",
      // A column may hold bytes that are no text, and what can fail is Spark's.
      EqualTo(a, title) -> "none",
      And(yes(a), EqualTo(Divide(Literal(1.0), Cast(id, DoubleType)), Literal(2.0))) -> "none",
      If(yes(a), Literal.TrueLiteral, EqualTo(Divide(Literal(1.0), Cast(id, DoubleType)), Literal(2.0))) -> "none",
      In(a, Seq(Literal("x"), Literal(null, StringType))) -> "{'in':[{'call':0}],'values':['x',null]}",
      If(yes(a), Literal.TrueLiteral, GreaterThan(id, Literal(3))) ->
        (s"{'or':[{'and':[{'is_true':$isYes},{'literal':true}]}," +
          s"{'and':[{'not':{'is_true':$isYes}},{'input':7}]}]}"),
      GreaterThan(Length(a), Literal(3)) -> "none",
      StartsWith(a, Literal("y")) -> "none"
    ).foreach { case (e, expected) => equal(condition(e), expected, e.toString) }
  }

  test("a text under another collation is compared by Spark") {
    equal(Glue.isCondition(EqualTo(Cast(a, StringType("UTF8_LCASE")),
      Literal.create("x", StringType("UTF8_LCASE"))), answers), false)
  }

  test("what reads no answer is always fine") {
    equal(Glue.isText(Upper(title), answers), true)
    equal(Glue.isCondition(GreaterThan(Length(title), Literal(3)), answers), true)
  }

  test("a field is the response of a call that reports errors, or it is Spark's") {
    def field(question: LLMCall): String = {
      val b = answer(question)
      val own = new Glue(id => if (id == b.exprId) Some(3 -> question) else None, _ => 7)
      own.text(GetStructField(b, 0)).fold("none")(p => CallGraph.render(JArray(p)).replace("\"", "'"))
    }
    val reporting = question.copy(options = question.options.copy(failOnError = false))
    val record = new StructType().add("response", StringType).add("errorMessage", StringType)
    equal(field(reporting), "[{'call':3}]")
    equal(field(question.copy(answerType = record)), "none")
    equal(field(reporting.copy(answerType = record)), "none")
  }

  test("a condition that is nested too deep is Spark's") {
    val deep = (0 until 100).foldLeft[Expression](yes(a))((e, i) =>
      And(GreaterThan(id, Literal(i)), Or(e, LessThan(id, Literal(-i)))))
    equal(glue.condition(deep).isEmpty, true)
    val long = (0 until 500).map(i => Not(EqualTo(a, Literal(s"x$i")))).reduce[Expression](And(_, _))
    equal(glue.condition(long).isDefined, true)
  }
}
