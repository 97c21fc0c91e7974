package org.apache.spark.sql.helium.expressions

import scala.collection.mutable
import scala.util.Try

import org.apache.spark.sql.catalyst.expressions._
import org.apache.spark.sql.catalyst.util.toPrettySQL
import org.apache.spark.sql.helium.{DeclaredModels, HeliumConf, HeliumErrors}
import org.apache.spark.sql.helium.execution.UsageCounters
import org.apache.spark.sql.internal.SQLConf
import org.apache.spark.sql.types._
import org.apache.spark.unsafe.types.UTF8String

/**
 * Builds the core call `llm(template, args..., option => value...)` at analysis, with every check
 * that needs no data. `template` is a constant string, a `prompt(...)`, or a conversation: an
 * `ARRAY<STRUCT<role, content>>`, written out with `array(...)` or a column.
 */
object LLMCallBuilder {

  val options: Seq[String] = Seq("model", "system", "max_tokens", "temperature", "top_p", "seed",
    "stop", "choices", "response_schema", "regex", "failOnError")

  private def isOption(name: String): Boolean =
    options.exists(o => OptionReader.normalize(o) == OptionReader.normalize(name))

  /** Columns for the prompt as one record; not a constant like the options. */
  private val fields = "fields"

  private val roles = Set("system", "user", "assistant")

  def llm(expressions: Seq[Expression]): Expression = {
    val function = "llm"
    val (positional, named) = split(function, expressions)
    val (optionArgs, others) = named.partition { case (name, _) => isOption(name) }
    val (fieldArgs, slotArgs) = others.partition { case (name, _) => name == fields }
    UsageCounters.identify(HeliumConf.ofSession)
    if (positional.isEmpty) {
      throw HeliumErrors.templateArguments(function, "", "there is no template")
    }
    val reader = new OptionReader(function, optionArgs)
    val system = reader.string("system")
    val (spec, arguments) = fieldArgs.headOption match {
      case Some((_, record)) => withFields(function, positional, slotArgs, system, record)
      case None => promptOf(function, positional, slotArgs, system)
    }
    val (callOptions, answerType) = optionsOf(function, reader)
    LLMCall.normalized(
      LLMCall(function, spec, arguments, callOptions, answerType, written = written(optionArgs)))
  }

  /**
   * A call for a function whose prompt and answer are its own.
   *
   * @param arguments what the slots of `messages` stand for
   * @param optionArgs the options that the user gave, by name
   * @param maxTokens default of the option max_tokens; else `spark.helium.maxTokens`
   * @param answer what the answer may be, and its SQL type; else a text
   */
  private[expressions] def call(
      function: String,
      prompt: PromptSpec,
      arguments: Seq[Expression],
      optionArgs: Seq[(String, Expression)],
      maxTokens: Option[Int] = None,
      answer: Option[(AnswerConstraint, DataType)] = None): LLMCall = {
    UsageCounters.identify(HeliumConf.ofSession)
    val reader = new OptionReader(function, optionArgs)
    val spec = (reader.string("system"), prompt) match {
      case (Some(system), Messages(messages)) if !messages.exists(_.role == "system") =>
        Messages(MessageTemplate("system", PromptTemplate.literal(system)) +: messages)
      case (Some(_), _) => throw HeliumErrors.conflictingOptions(
        function, Seq("the option system", "a conversation that is a column or has a system message"))
      case (None, _) => prompt
    }
    val (callOptions, answerType) = optionsOf(function, reader, maxTokens, answer)
    LLMCall.normalized(
      LLMCall(function, spec, arguments, callOptions, answerType, written = written(optionArgs)))
  }

  private def written(optionArgs: Seq[(String, Expression)]): Set[String] = optionArgs.map { case (name, _) =>
    options.find(o => OptionReader.normalize(o) == OptionReader.normalize(name)).get
  }.toSet

  /** `prompt(template, args...)`. */
  def prompt(expressions: Seq[Expression]): Expression = {
    val function = "prompt"
    val (positional, named) = split(function, expressions)
    if (positional.isEmpty) {
      throw HeliumErrors.templateArguments(function, "", "there is no template")
    }
    val (template, arguments) = templateOf(function, positional.head, positional.tail, named)
    Prompt(template, arguments)
  }

  private[expressions] def split(
      function: String,
      expressions: Seq[Expression]): (Seq[Expression], Seq[(String, Expression)]) = {
    val positional = expressions.filterNot(_.isInstanceOf[NamedArgumentExpression])
    val named = expressions.collect { case NamedArgumentExpression(k, v) => k -> v }
    val twice = named.groupBy { case (k, _) => OptionReader.normalize(k) }
      .collectFirst { case (_, several) if several.size > 1 => several.map(_._1) }
    twice.foreach(names => throw HeliumErrors.conflictingOptions(function, names))
    (positional, named)
  }

  /**
   * A prompt with a record of fields: where its template says `{fields}`, else in a line at its end. A
   * field's name is the column's.
   */
  private def withFields(
      function: String,
      positional: Seq[Expression],
      slotArgs: Seq[(String, Expression)],
      system: Option[String],
      struct: Expression): (PromptSpec, Seq[Expression]) = {
    val record = recordOf(function, struct)
    val isAsked = OptionReader.constant(positional.head).collect { case t: UTF8String =>
      Try(PromptTemplate.parse(t.toString)).toOption.exists(_.names.contains(fields))
    }.contains(true)
    val placed = if (isAsked) slotArgs :+ (fields -> record) else slotArgs
    promptOf(function, positional, placed, system) match {
      case (spec: Messages, arguments) if isAsked => (spec, arguments)
      case (Messages(messages), arguments) =>
        val last = messages.last
        val appended = last.content.parts ++ Seq(Text("\n"), Slot(arguments.size))
        (Messages(messages.init :+ last.copy(content = PromptTemplate(appended))), arguments :+ record)
      case _ => throw HeliumErrors.conflictingOptions(
        function, Seq(s"the argument $fields", "a conversation that is a column"))
    }
  }

  private def recordOf(function: String, struct: Expression): JsonRecord = {
    val items = struct match {
      case Alias(child, _) => return recordOf(function, child)
      case s: CreateNamedStruct => s.names.map(String.valueOf).zip(s.valExprs)
      case other => other.dataType match {
        case StructType(columns) => columns.toSeq.zipWithIndex.map { case (column, i) =>
          column.name -> GetStructField(other, i, Some(column.name))
        }
        case _ => throw HeliumErrors.optionType(function, fields, toPrettySQL(other), other.dataType,
          "a struct, such as struct(title, body)")
      }
    }
    items.zipWithIndex.foreach { case ((_, value), i) =>
      if (!JsonRecord.writes(value.dataType)) throw HeliumErrors.argumentType(function, i + 1, value)
    }
    JsonRecord(items.map { case (name, value) => name -> unaliased(value) })
  }

  private def unaliased(e: Expression): Expression = e match {
    case Alias(child, _) => unaliased(child)
    case other => other
  }

  private[expressions] def promptOf(
      function: String,
      positional: Seq[Expression],
      slotArgs: Seq[(String, Expression)],
      system: Option[String]): (PromptSpec, Seq[Expression]) = {

    def withSystem(messages: Seq[MessageTemplate]): Messages = {
      if (system.isDefined && messages.exists(_.role == "system")) {
        throw HeliumErrors.conflictingOptions(
          function, Seq("the option system", "a message with the role system"))
      }
      Messages(system.map(s => MessageTemplate("system", PromptTemplate.literal(s))).toSeq ++
        messages)
    }

    def noMore(): Unit = {
      slotArgs.headOption.foreach { case (name, _) =>
        throw HeliumErrors.unknownOption(function, name, options)
      }
      if (positional.size > 1) {
        throw HeliumErrors.templateArguments(function, toPrettySQL(positional.head),
          s"it has its arguments inside, and ${positional.size - 1} more are given")
      }
    }

    positional.head match {
      case Prompt(template, arguments) =>
        noMore()
        (withSystem(Seq(MessageTemplate("user", template))), arguments)
      case e if e.dataType.isInstanceOf[ArrayType] =>
        noMore()
        literalConversation(function, e) match {
          case Some((messages, arguments)) => (withSystem(messages), arguments)
          case None =>
            if (system.isDefined) {
              throw HeliumErrors.conflictingOptions(
                function, Seq("the option system", "a conversation that is a column"))
            }
            (ConversationColumn(0), Seq(conversationColumn(function, e)))
        }
      case template =>
        val (parsed, arguments) = templateOf(function, template, positional.tail, slotArgs)
        (withSystem(Seq(MessageTemplate("user", parsed))), arguments)
    }
  }

  /** A constant template and its arguments, by position or by the placeholders' names. */
  private def templateOf(
      function: String,
      template: Expression,
      positional: Seq[Expression],
      named: Seq[(String, Expression)]): (PromptTemplate, Seq[Expression]) = {
    val source = template.dataType match {
      case _: StringType => OptionReader.constant(template) match {
        case Some(s: UTF8String) => s.toString
        case _ => throw HeliumErrors.templateNotConstant(function, template)
      }
      case _ => throw HeliumErrors.templateNotConstant(function, template)
    }
    val parsed = try PromptTemplate.parse(source) catch {
      case PromptTemplate.SyntaxError(position, reason) =>
        throw HeliumErrors.templateSyntax(function, source, position, reason)
    }
    named.foreach { case (name, _) =>
      if (!parsed.names.contains(name)) {
        throw HeliumErrors.unknownOption(function, name, options ++ parsed.names)
      }
    }
    val slots = parsed.template.slots.distinct.sorted
    val arguments = if (named.isEmpty) {
      val expected = slots.lastOption.fold(0)(_ + 1)
      val missing = (0 until expected).diff(slots)
      if (missing.nonEmpty) {
        throw HeliumErrors.templateArguments(function, source,
          s"argument ${missing.mkString(", ")} has no placeholder")
      }
      if (positional.size != expected) {
        val options = parsed.names.filter(isOption).map(n => s"; {$n} has the name of an option")
        throw HeliumErrors.templateArguments(function, source,
          s"it has ${count(expected, "placeholder")} for ${count(positional.size, "argument")}" +
            options.mkString)
      }
      positional
    } else {
      // Names first take what is named; what is left takes the positional arguments in order.
      val left = parsed.names.filterNot(name => named.exists(_._1 == name))
      if (positional.size != left.size) {
        throw HeliumErrors.templateArguments(function, source,
          s"${count(left.size, "placeholder")} without a named argument" +
            s" for ${count(positional.size, "argument")} by position")
      }
      val byName = named.toMap ++ left.zip(positional)
      parsed.names.map(byName)
    }
    (parsed.template, arguments.zipWithIndex.map { case (a, i) => text(function, a, i + 1) })
  }

  private def count(n: Int, what: String): String = if (n == 1) s"1 $what" else s"$n ${what}s"

  /** Turns an argument into a string; what has no obvious text form is the user's to decide. */
  private[expressions] def text(function: String, argument: Expression, position: Int): Expression = {
    argument match {
      case Alias(child, _) => text(function, child, position)
      case Prompt(_, _) => argument
      case _ => argument.dataType match {
        case StringType => argument
        case _: StringType | _: NumericType | BooleanType | DateType | TimestampType |
            TimestampNTZType | NullType | _: TimeType => Cast(argument, StringType)
        case _: DayTimeIntervalType | _: YearMonthIntervalType => Cast(argument, StringType)
        case _ => throw HeliumErrors.argumentType(function, position, argument)
      }
    }
  }

  /** `array(struct(role, content), ...)` with constant roles, so that the planner sees through. */
  private def literalConversation(
      function: String, e: Expression): Option[(Seq[MessageTemplate], Seq[Expression])] = {
    def field(fields: Map[String, Expression], name: String): Expression = fields.getOrElse(name,
      throw HeliumErrors.conversation(function, e, s"a message has no field $name"))

    val structs = e match {
      case CreateArray(items, _) => items.map(structOf)
      case _ => Nil
    }
    val messages = structs.flatten.map { fields =>
      (OptionReader.constant(field(fields, "role")), field(fields, "content"))
    }
    if (structs.isEmpty || structs.exists(_.isEmpty) || messages.exists(_._1.isEmpty)) {
      None // a role or a message is known only when the query runs
    } else {
      val arguments = mutable.ArrayBuffer.empty[Expression]
      val templates = messages.map { case (role, content) =>
        val name = String.valueOf(role.orNull)
        if (!roles(name)) {
          throw HeliumErrors.conversation(function, e, s"$name is no role of a message")
        }
        MessageTemplate(name, contentOf(function, content, arguments))
      }
      Some((templates, arguments.toSeq))
    }
  }

  /** The template of one message; its arguments are appended to `arguments`. */
  private def contentOf(
      function: String,
      content: Expression,
      arguments: mutable.ArrayBuffer[Expression]): PromptTemplate = content match {
    case Alias(child, _) => contentOf(function, child, arguments)
    case Prompt(template, own) =>
      val offset = arguments.size
      arguments ++= own
      template.mapSlots(_ + offset)
    case other => OptionReader.constant(other) match {
      case Some(constant: UTF8String) => PromptTemplate.literal(constant.toString)
      case _ =>
        arguments += text(function, other, arguments.size + 1)
        PromptTemplate(Seq(Slot(arguments.size - 1)))
    }
  }

  private def structOf(e: Expression): Option[Map[String, Expression]] = e match {
    case s: CreateNamedStruct =>
      Some(s.names.map(n => String.valueOf(n).toLowerCase(java.util.Locale.ROOT))
        .zip(s.valExprs).toMap)
    case Cast(child, _: StructType, _, _) => structOf(child)
    case Alias(child, _) => structOf(child)
    case _ => None
  }

  private def conversationColumn(function: String, e: Expression): Expression = {
    val wanted = ArrayType(new StructType().add("role", StringType).add("content", StringType))
    e.dataType match {
      case ArrayType(StructType(fields), _) =>
        val position = fields.map(_.name.toLowerCase(java.util.Locale.ROOT)).zipWithIndex.toMap
        (position.get("role"), position.get("content")) match {
          case (Some(0), Some(1)) if fields.length == 2 && fields.forall(f =>
              f.dataType.isInstanceOf[StringType]) =>
            if (DataType.equalsIgnoreCompatibleNullability(e.dataType, wanted)) e
            else Cast(e, wanted)
          case (Some(_), Some(_)) => throw HeliumErrors.conversation(function, e,
            s"its messages have the type ${fields.map(_.toDDL).mkString(", ")}")
          case _ => throw HeliumErrors.conversation(function, e,
            "its messages have no fields role and content")
        }
      case other => throw HeliumErrors.conversation(function, e, s"it has the type ${other.sql}")
    }
  }

  private def optionsOf(
      function: String,
      reader: OptionReader,
      maxTokens: Option[Int] = None,
      answer: Option[(AnswerConstraint, DataType)] = None): (LLMOptions, DataType) = {
    val conf = SQLConf.get
    val model = reader.string("model").getOrElse(HeliumConf.text(conf, "spark.helium.model"))
    checkModel(function, model)
    val sampling = SamplingOptions(
      maxTokens = reader.int("max_tokens", s"1 to ${Int.MaxValue}")(_ >= 1)
        .orElse(maxTokens).getOrElse(HeliumConf.int(conf, "spark.helium.maxTokens")),
      temperature = reader.double("temperature", "between 0 and 2")(t => t >= 0 && t <= 2)
        .getOrElse(0.0),
      topP = reader.double("top_p", "above 0 and at most 1")(p => p > 0 && p <= 1).getOrElse(1.0),
      seed = reader.long("seed", s"0 to ${Long.MaxValue}")(_ >= 0),
      stop = reader.strings("stop").getOrElse(Nil))
    if (sampling.stop.exists(_.isEmpty)) {
      throw HeliumErrors.optionOutOfRange(function, "stop", "an empty string", "not empty")
    }
    val choices = reader.strings("choices").map { values =>
      if (values.isEmpty || values.exists(_.isEmpty) || values.distinct.size != values.size) {
        throw HeliumErrors.optionOutOfRange(function, "choices",
          values.map(v => s"'$v'").mkString("array(", ", ", ")"),
          "one or more different strings that are not empty")
      }
      (Choices(values), StringType: DataType)
    }
    val regex = reader.string("regex").map { pattern =>
      try java.util.regex.Pattern.compile(pattern) catch {
        case e: java.util.regex.PatternSyntaxException =>
          throw HeliumErrors.optionOutOfRange(function, "regex", pattern,
            s"a regular expression (${e.getDescription} at character ${e.getIndex + 1})")
      }
      (AnswerRegex(pattern), StringType: DataType)
    }
    val schema = reader.string("response_schema").map { text =>
      val parsed = try AnswerSchema.parse(text) catch {
        case AnswerSchema.Unsupported(reason) =>
          throw HeliumErrors.answerSchema(function, text, reason)
      }
      (JsonSchema(parsed.jsonSchema), parsed.dataType)
    }
    val constraints = Seq("choices" -> choices, "regex" -> regex, "response_schema" -> schema)
      .collect { case (name, Some(found)) => name -> found }
    if (constraints.size > 1) {
      throw HeliumErrors.conflictingOptions(function, constraints.map(_._1))
    }
    val constraint = constraints.headOption.map(_._2).orElse(answer)
    val failOnError = reader.boolean("failOnError").getOrElse(true)
    (LLMOptions(model, sampling, constraint.map(_._1), failOnError),
      constraint.map(_._2).getOrElse(StringType))
  }

  /** A call over an array of texts, which takes the options of [[llm]] that do not shape the answer. */
  private[expressions] def unrolled(
      function: String,
      prompt: Unrolled,
      texts: Expression,
      optionArgs: Seq[(String, Expression)],
      answer: Option[(AnswerConstraint, DataType)] = None): LLMCall = {
    UsageCounters.identify(HeliumConf.ofSession)
    val known = options.diff(Seq("system", "choices", "response_schema", "regex"))
    val written = optionArgs.map { case (name, _) =>
      known.find(o => OptionReader.normalize(o) == OptionReader.normalize(name))
        .getOrElse(throw HeliumErrors.unknownOption(function, name, known))
    }
    val (callOptions, answerType) = optionsOf(function, new OptionReader(function, optionArgs), answer = answer)
    LLMCall(function, prompt, Seq(texts), callOptions, answerType, written = written.toSet)
  }

  /** A bare word is a built-in name or a mistake; a path or a hub name has a slash in it. */
  private[expressions] def checkModel(function: String, model: String): Unit = {
    val declared = DeclaredModels.names(HeliumConf.ofSession)
    if (!HeliumConf.isModel(model, declared, HeliumConf.text(HeliumConf.ofSession, "spark.helium.engine"))) {
      throw HeliumErrors.unknownModel(function, model, (HeliumConf.builtInModels ++ declared).distinct)
    }
  }
}
