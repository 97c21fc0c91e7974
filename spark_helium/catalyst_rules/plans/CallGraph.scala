package org.apache.spark.sql.helium.plans

import scala.collection.mutable

import org.json4s._
import org.json4s.jackson.JsonMethods

import org.apache.spark.sql.catalyst.expressions.{Attribute, Expression}
import org.apache.spark.sql.helium.expressions._

/**
 * The calls of one `EvalLLM` node as the node daemon sees them: input columns, and calls that read
 * input columns and earlier answers. The JSON form is the contract with
 * `spark_helium/call_graph.py`.
 *
 * @param inputs expressions over the child's output, each once
 * @param calls the calls, their slots resolved to inputs or earlier calls
 */
case class CallGraph(inputs: Seq[Expression], calls: Seq[CallGraph.Node]) {

  def toJson: JValue = JObject(
    "version" -> JInt(CallGraph.version),
    "inputs" -> JInt(inputs.size),
    "calls" -> JArray(calls.map(_.toJson).toList))
}

object CallGraph {

  val version = 1

  /** Where the value of a slot comes from. */
  sealed trait Source {
    def toJson: JValue
  }
  case class Input(index: Int) extends Source {
    override def toJson: JValue = JObject("input" -> JInt(index))
  }
  case class Answer(index: Int) extends Source {
    override def toJson: JValue = JObject("call" -> JInt(index))
  }

  case class Node(call: LLMCall, sources: Seq[Source], guard: Option[Input] = None) {

    def toJson: JValue = {
      val prompt: List[(String, JValue)] = call.prompt match {
        case Messages(messages) => List("messages" -> JArray(messages.map(message).toList))
        case ConversationColumn(slot) =>
          List("messages" -> JArray(Nil), "conversation" -> sources(slot).toJson)
      }
      val s = call.options.sampling
      val sampling = JObject(
        "max_tokens" -> JInt(s.maxTokens),
        "temperature" -> JDouble(s.temperature),
        "top_p" -> JDouble(s.topP),
        "seed" -> s.seed.fold[JValue](JNull)(JInt(_)),
        "stop" -> strings(s.stop))
      val constraint = call.options.constraint.map {
        case Choices(values) => JObject("choices" -> strings(values))
        case JsonSchema(schema) => JObject("json_schema" -> JString(schema))
        case AnswerRegex(pattern) => JObject("regex" -> JString(pattern))
      }
      JObject(
        List[(String, JValue)](
          "function" -> JString(call.function),
          "model" -> JString(call.options.model)) ++
        prompt ++
        List[(String, JValue)](
          "sampling" -> sampling,
          "result_type" -> JString(call.dataType.json),
          "fail_on_error" -> JBool(call.options.failOnError),
          "multiplicity" -> JInt(call.multiplicity)) ++
        constraint.map("constraint" -> _) ++
        guard.map("guard" -> _.toJson))
    }

    private def message(m: MessageTemplate): JValue = JObject(
      "role" -> JString(m.role),
      "parts" -> JArray(m.content.parts.map {
        case Text(value) => JString(value)
        case Slot(i) => sources(i).toJson
      }.toList))
  }

  def of(calls: Seq[LLMCall], answers: Seq[Attribute]): CallGraph = {
    val inputs = mutable.ArrayBuffer.empty[Expression]
    val position = answers.map(_.exprId).zipWithIndex.toMap
    def input(e: Expression): Input = {
      val known = inputs.indexWhere(i => i.deterministic && i.semanticEquals(e))
      Input(if (known >= 0) known else { inputs += e; inputs.size - 1 })
    }
    def source(argument: Expression): Source = argument match {
      case a: Attribute if position.contains(a.exprId) => Answer(position(a.exprId))
      case e => input(e)
    }
    val nodes = calls.map(c => Node(c, c.arguments.map(source), c.guard.map(input)))
    CallGraph(inputs.toSeq, nodes)
  }

  def render(json: JValue): String = JsonMethods.compact(json)

  private def strings(values: Seq[String]): JValue = JArray(values.map(JString(_)).toList)
}
