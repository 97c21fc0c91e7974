package org.apache.spark.sql.helium.plans

import scala.collection.mutable

import org.json4s._
import org.json4s.jackson.JsonMethods

import org.apache.spark.sql.catalyst.expressions.{Attribute, AttributeSet, Expression, Literal}
import org.apache.spark.sql.helium.expressions._

/**
 * The calls of one `EvalLLM` node as the node daemon sees them: input columns, and calls that read
 * input columns and earlier answers. The JSON form is the contract with
 * `spark_helium/call_graph.py`.
 *
 * @param inputs expressions over the child's output, each once
 * @param calls the calls, their slots resolved to inputs or earlier calls
 * @param filters conditions in any order; a row for which one is not true is dropped, see [[LLMFilters]]
 */
case class CallGraph(
    inputs: Seq[Expression], calls: Seq[CallGraph.Node], filters: Seq[JValue] = Nil) {

  def toJson: JValue = JObject(
    "version" -> JInt(CallGraph.version),
    "inputs" -> JInt(inputs.size),
    "calls" -> JArray(calls.zipWithIndex.map { case (c, i) => c.toJson(i) }.toList),
    "filters" -> JArray(filters.toList))
}

object CallGraph {

  val version = 4

  /**
   * @param arguments the parts of each argument's text, see [[Glue]]
   * @param guard the condition under which the call runs
   */
  case class Node(call: LLMCall, arguments: Seq[List[JValue]], guard: Option[JValue] = None) {

    /** @param index of the call in the graph */
    def toJson(index: Int): JValue = {
      val prompt: List[(String, JValue)] = call.prompt match {
        case Messages(messages) => List("messages" -> JArray(messages.map(message).toList))
        case ConversationColumn(slot) =>
          List("messages" -> JArray(Nil), "conversation" -> arguments(slot).head)
        case u: Unrolled => unrolled(u, index)
      }
      val s = call.options.sampling
      val sampling = JObject(
        "max_tokens" -> JInt(s.maxTokens),
        "temperature" -> JDouble(s.temperature),
        "top_p" -> JDouble(s.topP),
        "seed" -> s.seed.fold[JValue](JNull)(JInt(_)),
        "stop" -> strings(s.stop))
      val choices = call.options.task match {
        case score: Score => Some(Choices(score.choices))
        case _ => call.options.constraint
      }
      val constraint = choices.map {
        case Choices(values) => JObject("choices" -> strings(values))
        case JsonSchema(schema) => JObject("json_schema" -> JString(schema))
        case AnswerRegex(pattern) => JObject("regex" -> JString(pattern))
      }
      JObject(
        List[(String, JValue)](
          "function" -> JString(call.function),
          "task" -> JString(call.options.task.name),
          "model" -> JString(call.options.model)) ++
        prompt ++
        List[(String, JValue)](
          "sampling" -> sampling,
          "result_type" -> JString(call.dataType.json),
          "fail_on_error" -> JBool(call.options.failOnError),
          "multiplicity" -> JInt(call.multiplicity)) ++
        constraint.map("constraint" -> _) ++
        call.options.cascade.map(c => "cascade" -> JObject(
          "model" -> JString(c.model),
          "precision" -> JDouble(c.precision),
          "recall" -> JDouble(c.recall),
          "sample" -> JInt(c.sample))) ++
        guard.map("guard" -> _))
    }

    private def message(m: MessageTemplate): JValue = message(m, arguments)

    private def message(m: MessageTemplate, values: Int => List[JValue]): JValue = JObject(
      "role" -> JString(m.role),
      "parts" -> JArray(m.content.parts.map {
        case Text(value) => List(JString(value))
        case Slot(i) => values(i)
      }.flatten.toList))

    /** In its messages the array stands for the elements at hand, and the call itself for the answer so far. */
    private def unrolled(u: Unrolled, index: Int): List[(String, JValue)] = {
      val items = arguments(u.slot)
      def messages(templates: Seq[MessageTemplate]): JValue = JArray(templates.map(message(_, {
        case Unrolled.soFar => List(JObject("call" -> JInt(index)))
        case _ => items
      })).toList)
      val (kind, budget, take) = u.program match {
        case Reduce(tokens, _) => ("reduce", tokens, None)
        case Combine(tokens) => ("merge", tokens, None)
        case Fold => ("fold", 0, None)
        case Best(k) => ("top", 0, Some(k))
      }
      List(
        "messages" -> messages(u.first),
        "composite" -> JObject(List[(String, JValue)](
          "kind" -> JString(kind),
          "items" -> items.head,
          "further" -> messages(u.further),
          "budget" -> JInt(budget)) ++ take.map(k => "take" -> JInt(k))))
    }
  }

  /** The graph of calls that [[CallLevels]] holds for one. */
  def of(
      calls: Seq[LLMCall], answers: Seq[Attribute], filters: Seq[Expression] = Nil): CallGraph = {
    val inputs = mutable.ArrayBuffer.empty[Expression]
    val known = answers.map(_.exprId).zip(calls.zipWithIndex.map(_.swap)).toMap
    def input(e: Expression): Int = {
      val at = inputs.indexWhere(i => i.deterministic && i.semanticEquals(e))
      if (at >= 0) at else { inputs += e; inputs.size - 1 }
    }
    val glue = new Glue(known.get, input)
    def found[T](e: Expression, form: Option[T]): T = form.getOrElse(
      throw new IllegalStateException(s"$e stands between two calls of one call graph"))
    val nodes = calls.map { c =>
      Node(c, c.arguments.map(a => found(a, glue.text(a))),
        c.guard.map(g => found(g, glue.condition(g))))
    }
    val conditions = filters.map(f => found(f, glue.condition(f)))
    CallGraph(inputs.toSeq, nodes, conditions)
  }

  /** What the calls read from below, each once, in the order in which the prompts do. */
  def inputsOf(calls: Seq[LLMCall], answers: Seq[Attribute]): Seq[Expression] = {
    val known = AttributeSet(answers)
    val read = calls.flatMap(_.arguments) ++ calls.flatMap(_.guard)
    read.flatMap(outermost(_, known)).filterNot(_.isInstanceOf[Literal])
      .foldLeft(Seq.empty[Expression]) { (kept, e) =>
        if (kept.exists(_.semanticEquals(e))) kept else kept :+ e
      }
  }

  /** The largest parts of an expression that read no answer. */
  private def outermost(e: Expression, answers: AttributeSet): Seq[Expression] =
    if (!e.references.exists(answers.contains)) Seq(e) else e.children.flatMap(outermost(_, answers))

  def render(json: JValue): String = JsonMethods.compact(json)

  private def strings(values: Seq[String]): JValue = JArray(values.map(JString(_)).toList)
}
