package org.apache.spark.sql.helium.expressions.functions

import org.apache.spark.sql.catalyst.expressions.{Alias, EqualTo, Expression, GetStructField, Literal, NamedArgumentExpression}
import org.apache.spark.sql.helium.{DeclaredModels, HeliumConf, HeliumErrors}
import org.apache.spark.sql.helium.expressions._
import org.apache.spark.sql.helium.expressions.FunctionCatalog.{Function, Group}
import org.apache.spark.sql.internal.SQLConf
import org.apache.spark.sql.types._
import org.apache.spark.unsafe.types.UTF8String

/** Calls whose answer is one of a few values. */
object Classification {

  val functions: Seq[Function] = Seq(
    Function(
      name = "ai_classify",
      usage = "_FUNC_(content, labels[, multi => true, instructions => '...']) - The label that fits the content" +
        " best; with multi, all that fit. Nothing but a given label can come out. NULL gives NULL.",
      arguments =
        s"""
    Arguments:
      * content - a text, a prompt(...), or anything that can be written as text.
      * labels - constant: an array of strings, map('label', 'description'), an array of
          struct('label', 'description'), or JSON text ["a", "b"] or {"a": "description"}.
      * multi - true returns an ARRAY of the labels that fit, in the order of labels and perhaps empty.
      * instructions - a constant text that says more about the labels.
${Prompts.typedOptionLines} An answer always has room for the longest label.
  """,
      examples =
        """
    Examples:
      > SELECT body, _FUNC_(body, array('quality', 'delivery', 'price', 'service')) AS about FROM reviews LIMIT 3;
      > SELECT _FUNC_('My password is leaked.', array('urgent', 'not urgent'));
      > SELECT _FUNC_(body, map('praise', 'says what is good', 'blame', 'says what is bad'), multi => true)
        FROM reviews LIMIT 3;
  """,
      group = Group.Classification,
      builder = classify),
    Function(
      name = "ai_filter",
      usage = "_FUNC_(template, args...) or _FUNC_(content, condition) - Whether what the template says is true, or" +
        " whether the condition holds for the content; for WHERE, JOIN ... ON and CASE. NULL gives NULL.",
      arguments =
        s"""
    Arguments:
      * template - a constant string with placeholders {}, {0} or {name} for the arguments, a prompt(...), or
          a string without further arguments.
      * args - what the placeholders stand for.
      * content - a text or anything that can be written as text.
      * condition - a constant string without placeholders. Of two arguments without a template the
          constant one is the condition; of two constants the second.
${Prompts.typedOptionLines} With failOnError => false a failed row
          gives NULL, and the counter calls_failed tells how many there were.
      * proxy_model, target_precision, target_recall - together: a cascade, which approximates. The proxy, another
          and cheaper model, decides the rows of which it is sure; the model answers the others. Of what comes out
          true, beside the model alone, at least the share target_precision is right, and at least the share
          target_recall is found: for each window of spark.helium.cascade.windowRows rows of a partition with
          probability 0.95. Both are above 0 and below 1. A window with fewer than two samples of different prompts
          is for the model alone.
      * sample_rows - different prompts of a window that both models answer, to learn from; by default four times
          what shows the stricter target (456 for 0.95).
  """,
      examples =
        """
    Examples:
      > SELECT product, body FROM reviews WHERE _FUNC_('Does this review mention the weight? {0}', body) LIMIT 3;
      > SELECT product FROM reviews WHERE stars < 3 AND _FUNC_(body, 'it complains about the delivery');
      > SELECT a.review_id, b.review_id FROM reviews a JOIN reviews b
        ON a.product = b.product AND a.review_id < b.review_id
          AND _FUNC_('Do these reviews contradict each other?\nFirst: {0}\nSecond: {1}', a.body, b.body)
        WHERE a.review_id < 20;
      > SELECT count(*) FROM reviews WHERE _FUNC_(body, 'it is angry', proxy_model => 'Qwen/Qwen3-0.6B',
          target_precision => 0.9, target_recall => 0.9);
  """,
      group = Group.Classification,
      builder = filter),
    sentiment("ai_analyze_sentiment"),
    sentiment("ai_sentiment"))

  // -- labels

  private def classify(expressions: Seq[Expression]): Expression = {
    val function = "ai_classify"
    val arguments = new FunctionArguments(function, Seq(
      Parameter("content", aliases = Seq("input", "text")),
      Parameter("labels", aliases = Seq("list_of_categories", "categories")),
      Parameter("multi", isRequired = false, aliases = Seq("multilabel")),
      Parameter("instructions", isRequired = false, aliases = Seq("task_description"))),
      Prompts.optionsOfTyped, expressions)
    val labels = Labels.read(arguments, "labels")
    val listed = Labels.listed(labels)
    val more = arguments.constants.string("instructions").fold("")(_ + "\n")
    if (arguments.constants.boolean("multi").contains(true)) {
      val (prompt, slots) = Prompts.about(function,
        s"Find all labels that fit the text. The labels are:$listed\n${more}Answer with a JSON array of labels.",
        arguments("content"))
      val characters = labels.map(_.name.length + 4).sum + 2
      arguments.standingFor(LLMCallBuilder.call(function, prompt, slots, arguments.options,
        maxTokens = Some(Prompts.atLeastDefault(characters)),
        answer = Some(AnswerRegex(Labels.subsets(labels)) -> ArrayType(StringType, containsNull = false))))
    } else {
      val (prompt, slots) = Prompts.about(function,
        s"Classify the text with one of these labels:$listed\n${more}Answer with the label alone.",
        arguments("content"))
      arguments.standingFor(LLMCallBuilder.call(function, prompt, slots, arguments.options,
        answer = Some(Choices(labels.map(_.name)) -> StringType)))
    }
  }

  private val sentiments = Seq("positive", "negative", "neutral", "mixed")

  private def sentiment(function: String): Function = Function(
    name = function,
    usage = "_FUNC_(content) - The sentiment of the content: positive, negative, neutral or mixed. NULL gives NULL." +
      (if (function == "ai_sentiment") " The same as ai_analyze_sentiment()." else ""),
    arguments =
      s"""
    Arguments:
      * content - a text, a prompt(...), or anything that can be written as text.
${Prompts.typedOptionLines}
  """,
    examples =
      """
    Examples:
      > SELECT body, _FUNC_(body) FROM reviews LIMIT 3;
      > SELECT _FUNC_('I am happy');
  """,
    group = Group.Classification,
    builder = { expressions =>
      val arguments = new FunctionArguments(function, Seq(Parameter("content", aliases = Seq("text"))),
        Prompts.optionsOfTyped, expressions)
      val (prompt, slots) = Prompts.about(function,
        "Is the sentiment of the text positive, negative, neutral or mixed? Answer with one word.",
        arguments("content"))
      arguments.standingFor(LLMCallBuilder.call(function, prompt, slots, arguments.options,
        answer = Some(Choices(sentiments) -> StringType)))
    })

  // -- conditions

  private val answers = Seq("true", "false")

  private def filter(expressions: Seq[Expression]): Expression = {
    val function = "ai_filter"
    val (positional, named) = LLMCallBuilder.split(function, expressions)
    val (cascadeArgs, others) = named.partition { case (name, _) => cascadeName(name).isDefined }
    val (options, slots) = others.partition { case (name, _) =>
      Prompts.optionsOfTyped.exists(o => OptionReader.normalize(o) == OptionReader.normalize(name))
    }
    val (prompt, arguments) = positional match {
      case Seq(first, _*) if isTemplate(function, first) => ofTemplate(function, first, positional.tail, slots)
      case Seq(whole) if slots.isEmpty => ofWhole(function, whole)
      case _ => ofCondition(function, positional, slots)
    }
    val plain = LLMCallBuilder.call(function, prompt, arguments, options,
      answer = Some(Choices(answers) -> StringType))
    val call = cascade(function, cascadeArgs, plain.options).fold(plain) { found =>
      plain.copy(options = plain.options.copy(cascade = Some(found)),
        written = plain.written ++ cascadeArgs.flatMap { case (name, _) => cascadeName(name) })
    }
    val answer = if (call.options.failOnError) call else GetStructField(call, 0, Some("response"))
    LibraryCall(function, expressions.map {
      case NamedArgumentExpression(name, value) => Some(name) -> value
      case value => None -> value
    }, EqualTo(answer, Literal(answers.head)))
  }

  private val cascadeTargets = Seq("proxy_model", "target_precision", "target_recall")

  private val sampleRows = "sample_rows"

  private def cascadeName(name: String): Option[String] =
    (cascadeTargets :+ sampleRows).find(o => OptionReader.normalize(o) == OptionReader.normalize(name))

  /** The cascade that the options ask for, checked against those of the call. */
  private def cascade(
      function: String, optionArgs: Seq[(String, Expression)], of: LLMOptions): Option[Cascade] = {
    val reader = new OptionReader(function, optionArgs)
    val model = reader.string("proxy_model")
    def target(name: String): Option[Double] =
      reader.double(name, "above 0 and below 1; without a proxy all rows are right and found")(t => t > 0 && t < 1)
    val (precision, recall) = (target("target_precision"), target("target_recall"))
    val mostRows = HeliumConf.int(SQLConf.get, "spark.helium.cascade.windowRows") / 2
    val sample = reader.int(sampleRows,
      s"1 to $mostRows, as a window has 2 samples at least; see spark.helium.cascade.windowRows")(
      n => n >= 1 && n <= mostRows)
    (model, precision, recall) match {
      case (Some(proxy), Some(p), Some(r)) =>
        LLMCallBuilder.checkModel(function, proxy)
        checkCascade(function, proxy, of)
        val least = Cascade.leastSample(p, r)
        val rows = sample.getOrElse(Cascade.defaultSample(p, r).min(mostRows))
        if (rows < least) {
          throw HeliumErrors.cascade(function, s"a sample of $rows prompts cannot show precision $p or recall $r, " +
            s"so that the proxy would decide nothing. Set sample_rows to $least or more (${4 * least} is better), " +
            "raise spark.helium.cascade.windowRows to twice that where it is less, or lower the targets")
        }
        Some(Cascade(proxy, p, r, rows))
      case (None, None, None) if sample.isEmpty => None
      case _ =>
        val missing = cascadeTargets.zip(Seq(model, precision, recall)).collect { case (name, None) => name }
        throw HeliumErrors.cascade(function, s"${missing.mkString(" and ")} ${if (missing.size == 1) "is" else "are"} " +
          "missing. Give proxy_model, target_precision and target_recall together, or none of them")
    }
  }

  private def checkCascade(function: String, proxy: String, of: LLMOptions): Unit = {
    if (proxy == of.model) {
      throw HeliumErrors.cascade(function,
        s"proxy_model is $proxy, the model itself. Name a cheaper model, or leave the cascade out")
    }
    if (of.sampling.temperature != 0.0) {
      throw HeliumErrors.cascade(function, s"with temperature ${of.sampling.temperature} the model has no fixed answer " +
        "that the proxy could meet. Leave temperature or the cascade out")
    }
    if (DeclaredModels.engineOf(HeliumConf.ofSession, proxy) == "openai") {
      throw HeliumErrors.cascade(function, s"the proxy $proxy is at an endpoint, which gives no scores. " +
        "Declare a proxy with an engine of its own: spark.helium.models.<name>.engine")
    }
  }

  /** A prompt(...), or a constant string with placeholders. */
  private def isTemplate(function: String, e: Expression): Boolean = (e, OptionReader.constant(e)) match {
    case (Alias(child, _), _) => isTemplate(function, child)
    case (Prompt(_, _), _) => true
    case (_, Some(text: UTF8String)) =>
      try PromptTemplate.parse(text.toString).template.slots.nonEmpty catch {
        case PromptTemplate.SyntaxError(position, reason) =>
          throw HeliumErrors.templateSyntax(function, text.toString, position, reason)
      }
    case _ => false
  }

  private val question = "Is this true? Answer with true or false.\n\n"

  private def ofTemplate(
      function: String,
      template: Expression,
      args: Seq[Expression],
      named: Seq[(String, Expression)]): (PromptSpec, Seq[Expression]) =
    behindQuestion(LLMCallBuilder.promptOf(function, template +: args, named, None))

  private def ofWhole(function: String, text: Expression): (PromptSpec, Seq[Expression]) =
    behindQuestion(Prompts.whole(function, text))

  /** A conversation has its own beginning. */
  private def behindQuestion(prompt: (PromptSpec, Seq[Expression])): (PromptSpec, Seq[Expression]) =
    prompt match {
      case (Messages(Seq(MessageTemplate("user", PromptTemplate(parts)))), arguments) =>
        Prompts.user(Text(question) +: parts, arguments)
      case other => other
    }

  private def ofCondition(
      function: String,
      positional: Seq[Expression],
      named: Seq[(String, Expression)]): (PromptSpec, Seq[Expression]) = {
    // Of two arguments by position the constant one is the condition, of two constants the second.
    val ordered = positional match {
      case Seq(first, second) if isConstant(first) && !isConstant(second) => Seq(second, first)
      case other => other
    }
    val arguments = new FunctionArguments(function, Seq(Parameter("content"), Parameter("condition")),
      Prompts.optionsOfTyped, ordered ++ named.map { case (n, v) => NamedArgumentExpression(n, v) })
    val condition = arguments.constants.string("condition").getOrElse(
      throw HeliumErrors.optionOutOfRange(function, "condition", "NULL", "a constant string"))
    Prompts.about(function,
      s"Does this condition hold for the text: $condition\nAnswer with true or false.", arguments("content"))
  }

  private def isConstant(e: Expression): Boolean = OptionReader.constant(e).exists(_.isInstanceOf[UTF8String])
}
