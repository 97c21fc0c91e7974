package org.apache.spark.sql.helium.expressions

import scala.collection.mutable

import org.apache.spark.sql.catalyst.expressions.{Expression, Unevaluable, UserDefinedExpression}
import org.apache.spark.sql.types.{DataType, StringType, StructType}

/** One message of a conversation whose shape is known: a constant role, and a template. */
case class MessageTemplate(role: String, content: PromptTemplate)

/** What a call sends: messages over the call's arguments, or a conversation that is a column. */
sealed trait PromptSpec {
  def slots: Seq[Int]
  def mapSlots(f: Int => Int): PromptSpec
}

case class Messages(messages: Seq[MessageTemplate]) extends PromptSpec {
  override def slots: Seq[Int] = messages.flatMap(_.content.slots)
  override def mapSlots(f: Int => Int): PromptSpec =
    Messages(messages.map(m => m.copy(content = m.content.mapSlots(f))))
}

case class ConversationColumn(slot: Int) extends PromptSpec {
  override def slots: Seq[Int] = Seq(slot)
  override def mapSlots(f: Int => Int): PromptSpec = ConversationColumn(f(slot))
}

/**
 * Calls over the elements of an array, which the node daemon unrolls (`gpu_executor/composite.py`).
 * Nothing of them but their number differs from other calls, for the optimizer.
 *
 * @param program how
 * @param first messages of the first call; their slot [[Unrolled.atHand]] stands for the elements at hand
 * @param further messages of all later calls; there [[Unrolled.soFar]] stands for the answer so far
 * @param slot the array among the call's arguments
 * @param shown what of the messages the user wrote, for EXPLAIN and names of columns
 */
case class Unrolled(
    program: Program,
    first: Seq[MessageTemplate],
    further: Seq[MessageTemplate],
    slot: Int,
    shown: Seq[String]) extends PromptSpec {
  override def slots: Seq[Int] = Seq(slot)
  override def mapSlots(f: Int => Int): PromptSpec = copy(slot = f(slot))
}

object Unrolled {
  val atHand = 0
  val soFar = 1
}

sealed trait Program

/**
 * A tree: elements in prompts of at most `budget` tokens, then their answers, until one is left.
 *
 * @param budget 0 leaves it to the daemon, which knows the model's context
 * @param withinPartition whether the elements are those of a group in one partition only
 */
case class Reduce(budget: Int, withinPartition: Boolean = false) extends Program

/** A tree whose elements are answers of [[Reduce]]; one alone takes no call. */
case class Combine(budget: Int) extends Program

/** A chain: each element with the answer so far. */
case object Fold extends Program

/**
 * A tournament of pairwise comparisons, which `further` writes: the earlier element stands in the place of the answer so
 * far. The answer names the `take` best elements by their positions from 0.
 */
case class Best(take: Int) extends Program

/** What guided decoding allows as the answer. */
sealed trait AnswerConstraint
case class Choices(values: Seq[String]) extends AnswerConstraint
case class JsonSchema(schema: String) extends AnswerConstraint
case class AnswerRegex(pattern: String) extends AnswerConstraint

/** What a call asks for. */
sealed trait CallTask {

  /** As in `CallTask` of `spark_helium/call_graph.py`. */
  def name: String

  /** Whether tokens of an answer are generated. */
  def completes: Boolean = false

  /** Whether a model is asked; where not, a call costs the row's way to the daemon and no more. */
  def usesModel: Boolean = true
}

case object Completion extends CallTask {
  override def name: String = "generate"
  override def completes: Boolean = true
}

/** How probable the first choice is at the beginning of the answer, beside the second: 0 to 1. */
case class Score(first: String, second: String) extends CallTask {
  override def name: String = "score"
  def choices: Seq[String] = Seq(first, second)
}

/** The vector of the prompt's text, which no chat template surrounds. */
case object Embedding extends CallTask {
  override def name: String = "embed"
}

/** How many tokens the prompt's text has. */
case object TokenCount extends CallTask {
  override def name: String = "count_tokens"
  override def usesModel: Boolean = false
}

/** How the answer is generated. `temperature` 0 is greedy decoding. */
case class SamplingOptions(
    maxTokens: Int,
    temperature: Double = 0.0,
    topP: Double = 1.0,
    seed: Option[Long] = None,
    stop: Seq[String] = Nil)

/**
 * A cheaper model answers the rows of which it is sure enough. The answers then are not those of the
 * call's own model alone; how far they may differ is what the targets say.
 *
 * @param model the proxy
 * @param precision of what is found, the share that must be right
 * @param recall of what is to be found, the share that must be found
 * @param sample different prompts, per window of rows, that both models answer to learn from
 */
case class Cascade(model: String, precision: Double, recall: Double, sample: Int)

object Cascade {

  // CONFIDENCE and RANKS of gpu_executor/cascade.py, which has the reasons.
  private val failure = (1 - 0.95) / 2
  private val ranks = 8

  /** True rows of a sample from which on anything can be said about recall. */
  private def forRecall(target: Double): Int = math.ceil(math.log(failure) / math.log(target)).toInt

  /** Rows of a sample, the lowest being the threshold, from which on anything can be said about precision. */
  private def forPrecision(target: Double): Int =
    math.ceil(math.log(failure / ranks) / math.log(target)).toInt + 1

  /** The smallest sample with which the proxy may decide any row at all. */
  def leastSample(precision: Double, recall: Double): Int = forPrecision(precision).min(forRecall(recall))

  /** A sample of which a quarter is enough to show either target. */
  def defaultSample(precision: Double, recall: Double): Int = 4 * forPrecision(precision).max(forRecall(recall))
}

/** All that makes two calls with equal arguments different calls. */
case class LLMOptions(
    model: String,
    sampling: SamplingOptions,
    constraint: Option[AnswerConstraint] = None,
    failOnError: Boolean = true,
    task: CallTask = Completion,
    cascade: Option[Cascade] = None)

/**
 * A call of a language model, as the optimizer sees it.
 *
 * Two properties are separate. ''May equal calls be merged?'' is `deterministic`: greedy decoding
 * or a seed. ''May a rule duplicate it?'' is always no, since a call is expensive; once
 * `ExtractLLMCalls` has made it an output of an `EvalLLM` node, no rule of Spark's can copy it.
 *
 * NULL in any argument gives NULL and no call, so the result is always nullable.
 *
 * @param function name under which the user called it
 * @param prompt template over `arguments`; slots index into them, each argument is used
 * @param arguments strings, or the one conversation column
 * @param answerType SQL type of the answer itself
 * @param multiplicity how many calls of the query's text this one stands for
 * @param guard the call runs only for rows where this is true; elsewhere its answer is NULL and
 *   nobody reads it
 * @param written names of the options in the query's text; the others have their defaults
 */
case class LLMCall(
    function: String,
    prompt: PromptSpec,
    arguments: Seq[Expression],
    options: LLMOptions,
    answerType: DataType = StringType,
    multiplicity: Int = 1,
    guard: Option[Expression] = None,
    written: Set[String] = Set.empty)
  extends Expression
  with Unevaluable
  with UserDefinedExpression {

  // The analyzer moves user-defined expressions that are not deterministic to where they may stand.
  // Not the function's name, which would make a view that uses it depend on a temporary function.
  override def name: String = "LLMCall"

  override def children: Seq[Expression] = arguments ++ guard

  override def nullable: Boolean = true

  override def dataType: DataType =
    if (options.failOnError) answerType else LLMCall.reportedType(answerType)

  override lazy val deterministic: Boolean =
    (options.sampling.temperature == 0.0 || options.sampling.seed.isDefined) &&
      children.forall(_.deterministic)

  override def prettyName: String = function

  // How, how often and by which name the text asks for it does not make it another call.
  override lazy val canonicalized: Expression = withCanonicalizedChildren.asInstanceOf[LLMCall]
    .copy(function = "", multiplicity = 1, written = Set.empty)

  // These two name columns, so they must not change with the session's defaults.
  override def toString: String = render(arguments.map(_.toString), writtenOptions)

  override def sql: String = render(arguments.map(_.sql), writtenOptions)

  /** The call with all its options, for EXPLAIN. */
  def describe: String = render(arguments.map(_.toString), LLMCall.describe(options))

  /** The call with other arguments. */
  def over(others: Seq[Expression]): LLMCall = copy(arguments = others)

  private def writtenOptions: Seq[(String, String)] =
    LLMCall.describe(options).filter { case (name, _) => written(name) }

  private def render(args: Seq[String], shown: Seq[(String, String)]): String = {
    val (template, values) = prompt match {
      case Messages(Seq(MessageTemplate(_, PromptTemplate(Seq(Slot(0)))))) if !options.task.completes => (Nil, args)
      case Messages(messages) if messages.count(_.role != "system") == 1 &&
          messages.forall(m => m.role == "system" || m.role == "user") =>
        val user = messages.find(_.role == "user").map(m => quoted(m.content.sql))
        (user.toSeq, args)
      case Messages(messages) =>
        val last = messages.last
        val earlier = if (messages.size > 1) s"${messages.size - 1} messages, " else ""
        (Seq(s"[$earlier${last.role}: ${quoted(last.content.sql)}]"), args)
      case ConversationColumn(_) => (Nil, args)
      case u: Unrolled => (Nil, args ++ u.shown.map(quoted))
    }
    val system = prompt match {
      case Messages(messages) =>
        messages.find(_.role == "system").filter(_ => messages.size == 2)
          .map(m => s"system => ${quoted(m.content.sql)}").toSeq
      case _ => Nil
    }
    val named = shown.map { case (name, value) => s"$name => $value" }
    (template ++ values ++ system ++ named).mkString(s"$function(", ", ", ")")
  }

  private def quoted(text: String): String = s"'${text.replace("'", "\\'")}'"

  override protected def withNewChildrenInternal(
      newChildren: IndexedSeq[Expression]): LLMCall = copy(
    arguments = newChildren.take(arguments.size), guard = guard.map(_ => newChildren.last))
}

object LLMCall {

  /** The type of a call with `failOnError => false`. */
  def reportedType(answer: DataType): DataType =
    new StructType().add("response", answer).add("errorMessage", StringType)

  /**
   * Arguments in the order of their first placeholder, each once, nested prompts opened: equal
   * calls written differently become equal values.
   */
  def normalized(call: LLMCall): LLMCall = call.prompt match {
    case Messages(messages) =>
      val arguments = mutable.ArrayBuffer.empty[Expression]
      def slotOf(e: Expression): Int = {
        val known = arguments.indexWhere(a => a.deterministic && a.semanticEquals(e))
        if (known >= 0) known else { arguments += e; arguments.size - 1 }
      }
      def open(template: PromptTemplate, args: Seq[Expression]): Seq[PromptPart] =
        template.parts.flatMap {
          case Slot(i) => args(i) match {
            case Prompt(inner, innerArgs) => open(inner, innerArgs)
            case argument => Seq(Slot(slotOf(argument)))
          }
          case part => Seq(part)
        }
      val opened = messages.map { m =>
        m.copy(content = PromptTemplate(joinTexts(open(m.content, call.arguments))))
      }
      call.copy(prompt = Messages(opened), arguments = arguments.toSeq)
    case _ => call
  }

  private def joinTexts(parts: Seq[PromptPart]): Seq[PromptPart] =
    parts.foldLeft(Vector.empty[PromptPart]) {
      case (done :+ Text(a), Text(b)) => done :+ Text(a + b)
      case (done, part) => done :+ part
    }

  def isIn(expression: Expression): Boolean = expression.exists(_.isInstanceOf[LLMCall])

  /** A call of the expressions, to name in a message. */
  def firstIn(expressions: Iterable[Expression]): Option[LLMCall] =
    expressions.iterator.flatMap(_.collectFirst { case call: LLMCall => call }).nextOption()

  private def describe(options: LLMOptions): Seq[(String, String)] = {
    val s = options.sampling
    val choices = options.task match {
      case score: Score => Some(Choices(score.choices))
      case _ => options.constraint
    }
    val constraint = choices.map {
      case Choices(values) => "choices" -> array(values)
      case JsonSchema(_) => "response_schema" -> "'...'"
      case AnswerRegex(pattern) => "regex" -> s"'$pattern'"
    }
    Seq("model" -> s"'${options.model}'") ++
      Option.when(options.task.completes)("max_tokens" -> s.maxTokens.toString) ++
      Option.when(s.temperature != 0.0)("temperature" -> s.temperature.toString) ++
      Option.when(s.topP != 1.0)("top_p" -> s.topP.toString) ++
      s.seed.map(v => "seed" -> v.toString) ++
      Option.when(s.stop.nonEmpty)("stop" -> array(s.stop)) ++
      constraint ++
      Option.when(!options.failOnError)("failOnError" -> "false") ++
      options.cascade.toSeq.flatMap(c => Seq("proxy_model" -> s"'${c.model}'",
        "target_precision" -> c.precision.toString, "target_recall" -> c.recall.toString,
        "sample_rows" -> c.sample.toString))
  }

  private def array(values: Seq[String]): String =
    values.map(v => s"'$v'").mkString("array(", ", ", ")")
}
