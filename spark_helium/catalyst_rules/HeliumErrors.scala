package org.apache.spark.sql.helium

import scala.util.control.NonFatal

import org.apache.spark.{ErrorClassesJsonReader, SparkRuntimeException, SparkThrowableHelper}
import org.apache.spark.sql.AnalysisException
import org.apache.spark.sql.catalyst.expressions.Expression
import org.apache.spark.sql.catalyst.trees.CurrentOrigin
import org.apache.spark.sql.catalyst.util.toPrettySQL
import org.apache.spark.sql.helium.expressions.OptionReader.normalize
import org.apache.spark.sql.types.{BinaryType, DataType}
import org.apache.spark.unsafe.types.UTF8String

/**
 * The one place where errors are made. Conditions, their texts and SQLSTATEs are in
 * `spark-helium-error-conditions.json`, in the form of Spark's own file.
 */
object HeliumErrors {

  ErrorConditions.register()

  /** Makes our conditions known in this JVM, also where none is thrown: drivers receive them. */
  def register(): Unit = ()

  private val promptPreview = 120

  def templateSyntax(
      function: String, template: String, position: Int, reason: String): Throwable =
    analysis("HELIUM_TEMPLATE_SYNTAX", "function" -> function, "template" -> shorten(template),
      "position" -> (position + 1).toString, "reason" -> reason)

  def templateArguments(function: String, template: String, reason: String): Throwable =
    analysis("HELIUM_TEMPLATE_ARGUMENTS", "function" -> function,
      "template" -> shorten(template), "reason" -> reason)

  def templateNotConstant(function: String, template: Expression): Throwable =
    analysis("HELIUM_TEMPLATE_NOT_CONSTANT", "function" -> function,
      "template" -> shorten(toPrettySQL(template)))

  def argumentType(function: String, position: Int, argument: Expression): Throwable =
    analysis("HELIUM_ARGUMENT_TYPE", "function" -> function, "position" -> position.toString,
      "argument" -> shorten(toPrettySQL(argument)), "type" -> argument.dataType.sql,
      "way" -> (argument.dataType match {
        case BinaryType => s"decode(${shorten(toPrettySQL(argument))}, 'UTF-8')"
        case _ => s"to_json(${shorten(toPrettySQL(argument))})"
      }))

  def conversation(function: String, argument: Expression, reason: String): Throwable =
    analysis("HELIUM_CONVERSATION", "function" -> function,
      "argument" -> shorten(toPrettySQL(argument)), "reason" -> reason)

  def arguments(function: String, usage: String, reason: String): Throwable =
    analysis("HELIUM_ARGUMENTS", "function" -> function, "usage" -> usage, "reason" -> reason)

  def unknownOption(function: String, option: String, known: Seq[String]): Throwable =
    analysis("HELIUM_UNKNOWN_OPTION", "function" -> function, "option" -> option,
      "hint" -> nearest(option, known))

  def optionNotConstant(function: String, option: String, value: Expression): Throwable =
    analysis("HELIUM_OPTION_NOT_CONSTANT", "function" -> function, "option" -> option,
      "value" -> shorten(toPrettySQL(value)))

  def optionType(
      function: String, option: String, value: Any, tpe: DataType, expected: String): Throwable =
    analysis("HELIUM_OPTION_TYPE", "function" -> function, "option" -> option,
      "value" -> shorten(String.valueOf(value)), "type" -> tpe.sql, "expected" -> expected)

  def optionOutOfRange(
      function: String, option: String, value: Any, expected: String): Throwable =
    analysis("HELIUM_OPTION_OUT_OF_RANGE", "function" -> function, "option" -> option,
      "value" -> shorten(String.valueOf(value)), "expected" -> expected)

  def conflictingOptions(function: String, options: Seq[String]): Throwable =
    analysis("HELIUM_CONFLICTING_OPTIONS", "function" -> function,
      "options" -> options.mkString(" and "))

  def cascade(function: String, reason: String): Throwable =
    analysis("HELIUM_CASCADE", "function" -> function, "reason" -> reason)

  def unknownModel(function: String, model: String, known: Seq[String]): Throwable =
    analysis("HELIUM_UNKNOWN_MODEL", "function" -> function, "model" -> shorten(model),
      "hint" -> nearest(model, known))

  def answerSchema(function: String, schema: String, reason: String): Throwable =
    analysis("HELIUM_ANSWER_SCHEMA", "function" -> function, "schema" -> shorten(schema),
      "reason" -> reason)

  def callInLambda(function: String, place: String): Throwable =
    analysis("HELIUM_CALL_IN_LAMBDA", "function" -> function, "place" -> place)

  def callPlacement(
      function: String,
      place: String,
      reason: String,
      way: String = "Compute it as a column of a query below, and use that column here."): Throwable =
    analysis("HELIUM_CALL_PLACEMENT", "function" -> function, "place" -> place,
      "reason" -> reason, "way" -> way)

  /** A call over both sides of a join that is no inner one, where the join's rows cannot be computed twice. */
  def callInJoin(function: String, join: String, reason: String): Throwable =
    callPlacement(function, s"the condition of a $join join", reason,
      "Write that side to a table first; where it has a LIMIT, an ORDER BY below it is enough.")

  def incompatibleSpark(version: String, built: String, running: String): Throwable = {
    val minor = built.split('.').take(2).mkString(".")
    runtime("HELIUM_INCOMPATIBLE_SPARK", "version" -> version, "built" -> built,
      "running" -> running, "minor" -> minor)
  }

  def settingInvalid(key: String, value: String, reason: String, doc: String): Throwable =
    runtime("HELIUM_SETTING_INVALID", "key" -> key, "value" -> value, "reason" -> reason,
      "doc" -> doc)

  def settingUnknown(key: String, known: Seq[String]): Throwable =
    runtime("HELIUM_SETTING_UNKNOWN", "key" -> key, "hint" -> nearest(key, known))

  def callFailed(function: String, model: String, prompt: String, reason: String): Throwable =
    runtime("HELIUM_CALL_FAILED", "function" -> function, "model" -> model,
      "prompt" -> (if (prompt.isEmpty) "(empty)" else prompt.stripSuffix(".")), "reason" -> reason)

  def budgetExceeded(reason: String): Throwable =
    runtime("HELIUM_BUDGET_EXCEEDED", "reason" -> reason)

  def daemonFailed(reason: String): Throwable =
    runtime("HELIUM_DAEMON_FAILED", "reason" -> reason)

  private def analysis(condition: String, parameters: (String, String)*): Throwable =
    new AnalysisException(
      errorClass = condition,
      messageParameters = parameters.toMap,
      origin = CurrentOrigin.get)

  private def runtime(condition: String, parameters: (String, String)*): Throwable =
    new SparkRuntimeException(
      errorClass = condition,
      messageParameters = parameters.toMap,
      cause = null,
      context = Array.empty,
      summary = "")

  /** Middle cut, so that a long prompt never fills a log. */
  private def shorten(text: String): String = {
    if (text.length <= promptPreview) {
      text
    } else {
      val half = (promptPreview - 5) / 2
      text.take(half) + " ... " + text.takeRight(half)
    }
  }

  private def nearest(name: String, known: Seq[String]): String = {
    val wanted = UTF8String.fromString(name.toLowerCase(java.util.Locale.ROOT))
    def distance(other: String): Int = wanted.levenshteinDistance(
      UTF8String.fromString(other.toLowerCase(java.util.Locale.ROOT)))
    val others = known.distinctBy(normalize).filterNot(normalize(_) == normalize(name))
    others.minByOption(distance) match {
      case Some(best) if distance(best) <= math.max(2, name.length / 3) =>
        s"Did you mean $best?"
      case _ => s"Known: ${others.sorted.mkString(", ")}."
    }
  }
}

/**
 * Makes our conditions known to Spark. Spark builds every message from its own file of conditions,
 * also when PySpark asks for the message of an exception later, and offers no way to add to it; so
 * the reader's table is replaced by one that holds both.
 */
private object ErrorConditions {

  def register(): Unit = {
    try {
      val reader = SparkThrowableHelper.errorReader
      val field = classOf[ErrorClassesJsonReader].getDeclaredField("errorInfoMap")
      field.setAccessible(true)
      field.set(reader, reader.errorInfoMap ++ own.errorInfoMap)
    } catch {
      case NonFatal(e) => throw new IllegalStateException(
        "spark-helium could not add its error conditions to those of this Spark build", e)
    }
  }

  private def own: ErrorClassesJsonReader = new ErrorClassesJsonReader(
    Seq(getClass.getClassLoader.getResource("spark-helium-error-conditions.json")))
}
