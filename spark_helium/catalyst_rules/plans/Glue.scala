package org.apache.spark.sql.helium.plans

import org.json4s._

import org.apache.spark.sql.catalyst.expressions._
import org.apache.spark.sql.catalyst.expressions.Literal.{FalseLiteral, TrueLiteral}
import org.apache.spark.sql.helium.expressions.{CannotFail, LLMCall}
import org.apache.spark.sql.types._
import org.apache.spark.unsafe.types.UTF8String

/**
 * What of an expression over earlier answers the node daemon can compute for a row by itself: text
 * put together from columns and answers, and conditions on such text. The JSON forms are the ones of
 * `spark_helium/call_graph.py`. Whatever reads no answer is one more input column.
 *
 * {{{
 *   concat('<', llm#1, '>')            [{"data": "<"}, {"call": 0}, {"data": ">"}]
 *   coalesce(llm#1, 'none')            [{"first_of": [[{"call": 0}], [{"data": "none"}]]}]
 *   concat_ws(', ', title, llm#1)      [{"join": [[{"input": 0}], [{"call": 0}]], "separator": ", "}]
 *   llm#1 = 'yes' AND id > 3           {"and": [{"equal": [[..], [..]]}, {"input": 1}]}
 * }}}
 *
 * @param answer position and call of an attribute that is an answer, where it is known here
 * @param input position of the input column that holds an expression over the child's output
 */
class Glue(answer: ExprId => Option[(Int, LLMCall)], input: Expression => Int) {

  /** The parts of a text; None when something stands around an answer that is not glue. */
  def text(e: Expression): Option[List[JValue]] = e match {
    case Alias(child, _) => text(child)
    case Literal(s: UTF8String, StringType) => Some(data(s.toString))
    case _ if !readsAnswer(e) => Some(List(inputPart(e)))
    case a: Attribute if a.dataType == StringType => answer(a.exprId).map(k => List(callPart(k._1)))
    // The answer of a call with failOnError => false, and not the first field of an answer.
    case GetStructField(a: Attribute, 0, _) => answer(a.exprId).collect {
      case (k, call) if !call.options.failOnError && call.answerType == StringType =>
        List(callPart(k))
    }
    case Cast(child, StringType, _, _) if child.dataType == StringType => text(child)
    case Concat(children) if e.dataType == StringType => all(children.map(text)).map(_.flatten)
    case Coalesce(children) if e.dataType == StringType =>
      all(children.map(lazily(_)(text))).map(c => List(JObject("first_of" -> arrays(c))))
    case ConcatWs(Literal(separator: UTF8String, StringType) +: items)
        if items.flatMap(elements).forall(_.dataType == StringType) =>
      all(items.flatMap(elements).map(lazily(_)(text))).map(i => List(JObject(
        "join" -> arrays(i), "separator" -> JString(separator.toString))))
    case FormatString(Literal(format: UTF8String, _), arguments @ _*) =>
      Glue.formatParts(format.toString, arguments.size).flatMap { pieces =>
        all(pieces.map {
          case Glue.Constant(value) => Some(data(value))
          case Glue.Specifier(value, i) => formatted(value, arguments(i))
        }).map(_.flatten).map(parts => if (parts.isEmpty) data("") else parts)
      }
    case _ => None
  }

  /**
   * A condition in SQL's three-valued logic; None when it is more than the daemon knows, or nested so
   * deep that nobody could read it.
   */
  def condition(e: Expression): Option[JValue] =
    if (Glue.height(e) > Glue.mostHeight) None else conditionOf(e)

  private def conditionOf(e: Expression): Option[JValue] = e match {
    case Literal(value, BooleanType) =>
      Some(JObject("literal" -> (if (value == null) JNull else JBool(value == true))))
    case _ if !readsAnswer(e) => Some(inputPart(e))
    case _: And => list("and", Glue.terms(e) { case And(left, right) => Seq(left, right) })
    case _: Or => list("or", Glue.terms(e) { case Or(left, right) => Seq(left, right) })
    case Not(child) => conditionOf(child).map(negated)
    case IsNull(child) => textOf(child).map(t => JObject("is_null" -> t))
    case IsNotNull(child) => textOf(child).map(t => negated(JObject("is_null" -> t)))
    case EqualNullSafe(child, TrueLiteral) => conditionOf(child).map(isTrue)
    case EqualNullSafe(child, FalseLiteral) => conditionOf(child).map(c => isTrue(negated(c)))
    case EqualTo(left, right) => comparison("equal", left, right)
    case EqualNullSafe(left, right) => comparison("null_safe_equal", left, right)
    case In(child, values) if values.nonEmpty && values.forall(_.isInstanceOf[Literal]) =>
      membership(child, values.map(_.asInstanceOf[Literal].value))
    case InSet(child, values) if values.nonEmpty => membership(child, values.toSeq.sortBy(String.valueOf))
    case If(predicate, yes, no) => conditionOf(CaseWhen(Seq(predicate -> yes), no))
    case CaseWhen(branches, otherwise) if branches.size <= Glue.mostBranches =>
      val last = otherwise.getOrElse(Literal(null, BooleanType))
      branches.foldRight(lazily(last)(conditionOf)) {
        case ((predicate, value), rest) => for {
          p <- lazily(predicate)(conditionOf)
          v <- lazily(value)(conditionOf)
          r <- rest
        } yield JObject("or" -> JArray(List(
          JObject("and" -> JArray(List(isTrue(p), v))),
          JObject("and" -> JArray(List(negated(isTrue(p)), r))))))
      }
    case _ => None
  }

  private def readsAnswer(e: Expression): Boolean =
    e.references.exists(a => answer(a.exprId).isDefined)

  private def textOf(e: Expression): Option[JValue] =
    if (e.dataType == StringType) text(e).map(JArray(_)) else None

  /** A text to compare: of answers and constants. A column may hold bytes that are no text. */
  private def comparable(e: Expression): Option[JValue] =
    if (e.references.forall(a => answer(a.exprId).isDefined)) textOf(e) else None

  private def comparison(name: String, left: Expression, right: Expression): Option[JValue] = for {
    l <- comparable(left)
    r <- comparable(right)
  } yield JObject(name -> JArray(List(l, r)))

  private def membership(child: Expression, values: Seq[Any]): Option[JValue] =
    comparable(child).map(t => JObject("in" -> t, "values" -> JArray(values.toList.map {
      case null => JNull
      case v => JString(v.toString)
    })))

  private def list(name: String, terms: Seq[Expression]): Option[JValue] =
    all(terms.map(lazily(_)(conditionOf))).map(found => JObject(name -> JArray(found)))

  /** A piece that Spark may not compute for every row; as an input column it would be. */
  private def lazily[T](e: Expression)(form: Expression => Option[T]): Option[T] =
    if (!readsAnswer(e) && !CannotFail(e)) None else form(e)

  /** Items of concat_ws; those of an array that is written out count one by one. */
  private def elements(e: Expression): Seq[Expression] = e match {
    case CreateArray(children, _) => children
    case other => Seq(other)
  }

  /** One specifier of format_string, which writes NULL as null. */
  private def formatted(specifier: String, argument: Expression): Option[List[JValue]] =
    if (!readsAnswer(argument)) {
      text(FormatString(Literal(specifier), argument))
    } else if (specifier == "%s") {
      text(argument).map(t => List(JObject("first_of" -> arrays(Seq(t, data("null"))))))
    } else {
      None
    }

  private def data(value: String): List[JValue] =
    List(JObject("data" -> JString(value)))

  private def inputPart(e: Expression): JValue = JObject("input" -> JInt(input(e)))

  private def callPart(k: Int): JValue = JObject("call" -> JInt(k))

  private def negated(c: JValue): JValue = JObject("not" -> c)

  private def isTrue(c: JValue): JValue = JObject("is_true" -> c)

  private def arrays(parts: Seq[List[JValue]]): JArray = JArray(parts.map(JArray(_)).toList)

  private def all[T](options: Seq[Option[T]]): Option[List[T]] =
    if (options.forall(_.isDefined)) Some(options.map(_.get).toList) else None
}

object Glue {

  /**
   * Whether the daemon can compute a prompt's argument that reads answers of the given calls.
   *
   * @param calls by the ids of their answers
   */
  def isText(e: Expression, calls: collection.Map[ExprId, LLMCall]): Boolean =
    !reads(e, calls) || checking(calls).text(e).isDefined

  /** Whether the daemon can evaluate a condition that reads answers of the given calls. */
  def isCondition(e: Expression, calls: collection.Map[ExprId, LLMCall]): Boolean =
    !reads(e, calls) || checking(calls).condition(e).isDefined

  private def reads(e: Expression, calls: collection.Map[ExprId, LLMCall]): Boolean =
    e.references.exists(a => calls.contains(a.exprId))

  private def checking(calls: collection.Map[ExprId, LLMCall]): Glue =
    new Glue(id => calls.get(id).map(0 -> _), _ => 0)

  // JSON readers stop at a depth, and a longer CASE is quicker in Spark.
  private val mostHeight = 60
  private val mostBranches = 16

  /** The height of an expression's tree, chains of AND and OR counted as one. */
  private def height(e: Expression): Int = {
    val below = e match {
      case _: And => terms(e) { case And(left, right) => Seq(left, right) }
      case _: Or => terms(e) { case Or(left, right) => Seq(left, right) }
      case other => other.children
    }
    1 + below.map(height).maxOption.getOrElse(0)
  }

  private def terms(e: Expression)(
      open: PartialFunction[Expression, Seq[Expression]]): Seq[Expression] =
    open.lift(e).fold(Seq(e))(_.flatMap(terms(_)(open)))

  private[plans] sealed trait FormatPart
  private[plans] case class Constant(value: String) extends FormatPart
  private[plans] case class Specifier(value: String, argument: Int) extends FormatPart

  private val specifier = """%(\d+\$)?([-#+ 0,(<]*)(\d+)?(\.\d+)?([a-zA-Z%])""".r

  /**
   * A format as constants and specifiers with the position of their argument; None where a specifier
   * is more than a plain one.
   */
  private[plans] def formatParts(
      format: String, arguments: Int): Option[Seq[FormatPart]] = {
    val parts = Seq.newBuilder[FormatPart]
    var end = 0
    var next = 0
    var plain = true
    specifier.findAllMatchIn(format).foreach { m =>
      val constant = format.substring(end, m.start)
      plain &&= !constant.contains('%')
      parts += Constant(constant)
      end = m.end
      m.group(5) match {
        case "%" => parts += Constant("%")
        case "n" => parts += Constant(System.lineSeparator)
        case _ if m.group(2).contains('<') => plain = false
        case conversion =>
          val i = Option(m.group(1)).fold { next += 1; next - 1 }(_.dropRight(1).toInt - 1)
          plain &&= i < arguments && i >= 0
          val width = Seq(3, 4).flatMap(g => Option(m.group(g))).mkString
          parts += Specifier(s"%${m.group(2)}$width$conversion", i)
      }
    }
    val tail = format.substring(end)
    parts += Constant(tail)
    if (plain && !tail.contains('%')) Some(parts.result().filter(_ != Constant(""))) else None
  }
}
