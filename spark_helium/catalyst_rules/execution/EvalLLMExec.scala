package org.apache.spark.sql.helium.execution

import java.util.{ArrayList => JArrayList, Map => JMap}

import org.json4s.{JInt, JObject, JString}

import org.apache.spark.{JobArtifactSet, PartitionEvaluator, PartitionEvaluatorFactory}
import org.apache.spark.api.python.PythonEvalType
import org.apache.spark.rdd.RDD
import org.apache.spark.sql.catalyst.InternalRow
import org.apache.spark.sql.catalyst.expressions._
import org.apache.spark.sql.catalyst.plans.QueryPlan
import org.apache.spark.sql.catalyst.plans.physical.Partitioning
import org.apache.spark.sql.execution.{SparkPlan, UnaryExecNode}
import org.apache.spark.sql.execution.metric.{SQLMetric, SQLMetrics}
import org.apache.spark.sql.execution.python._
import org.apache.spark.sql.helium.{HeliumConf, HeliumErrors}
import org.apache.spark.sql.helium.expressions.LLMCall
import org.apache.spark.sql.helium.nodes.ExecutorGpus
import org.apache.spark.sql.helium.plans.{CallGraph, CallLines, EvalLLM, Pace, RuleNote}
import org.apache.spark.sql.helium.statistics.QueryEstimate
import org.apache.spark.sql.types.{StringType, StructField, StructType}

/**
 * Evaluates one call graph over the rows of each partition, through Spark's Arrow Python path.
 *
 * {{{
 *   child rows ──┬── row queue (spills) ────────────────────────────┬─► join by position
 *                │                                                  │        │
 *                └── input columns ─► Arrow ─► Python worker ─► answers      ▼
 *                                                  │ Flight        child columns, answers
 *                                              node daemon
 * }}}
 *
 * The invariant that keeps it right: the Python worker returns exactly one struct per input row, in
 * the order of the input. The struct holds `c0 .. cN`, the answers; `usage`, what was counted since
 * the last batch (NULL on most rows); and `failure`, which ends the query.
 *
 * @param filters conditions of the filter above, in any order; for a row that one of them drops the
 *   answers need not be there
 * @param expected what the whole query is expected to ask, where a budget needs to know
 * @param pace how many rows each task asks first, where a limit above wants few
 */
case class EvalLLMExec(
    calls: Seq[LLMCall],
    answers: Seq[Attribute],
    child: SparkPlan,
    notes: Seq[RuleNote] = Nil,
    filters: Seq[Expression] = Nil,
    expected: Option[QueryEstimate] = None,
    pace: Option[Pace] = None)
  extends UnaryExecNode
  with PythonSQLMetrics {

  override def output: Seq[Attribute] = child.output ++ answers

  override def producedAttributes: AttributeSet = AttributeSet(answers)

  override def outputPartitioning: Partitioning = child.outputPartitioning

  override def outputOrdering: Seq[SortOrder] = child.outputOrdering

  override protected def doCanonicalize(): SparkPlan = {
    val (canonicalCalls, canonicalAnswers) = EvalLLM.canonicalized(calls, answers, child.output)
    EvalLLMExec(canonicalCalls, canonicalAnswers, child.canonicalized,
      filters = filters.map(QueryPlan.normalizeExpressions(_, output)))
  }

  override def additionalMetrics: Map[String, SQLMetric] = EvalLLMExec.metrics(this)

  override def simpleString(maxFields: Int): String = s"EvalLLM ${EvalLLM.count(calls.size)}"

  override def verboseStringWithOperatorId(): String =
    s"""
       |$formattedNodeName
       |Input: ${child.output.mkString("[", ", ", "]")}
       |Calls:
       |${lines.map("  " + _).mkString("\n")}
       |""".stripMargin

  override def generateTreeString(
      depth: Int,
      lastChildren: JArrayList[Boolean],
      append: String => Unit,
      verbose: Boolean,
      prefix: String,
      addSuffix: Boolean,
      maxFields: Int,
      printNodeId: Boolean,
      printOutputColumns: Boolean,
      indent: Int): Unit = {
    // EXPLAIN FORMATTED has its own part for the details.
    val below = if (printNodeId) Nil else lines
    super.generateTreeString(depth, lastChildren,
      CallLines.after(append, depth, lastChildren, indent, below),
      verbose, prefix, addSuffix, maxFields, printNodeId, printOutputColumns, indent)
  }

  private def lines: Seq[String] = {
    // Empty where it cannot be told. The logical node keeps it for all plans that AQE makes of this one.
    val estimate = logicalLink.flatMap(_.collectFirst { case node: EvalLLM => node }).fold("")(_.estimate)
    CallLines(calls, answers, EvalLLM.shown(notes, pace)) ++ Option.when(estimate.nonEmpty)(s"expected: $estimate")
  }

  override protected def withNewChildInternal(newChild: SparkPlan): EvalLLMExec =
    copy(child = newChild)

  // Taken when the plan is made, on the thread that knows which client asks.
  private val jobArtifactUUID = JobArtifactSet.getCurrentJobArtifactState.map(_.uuid)

  override protected def doExecute(): RDD[InternalRow] = {
    QueryBudget.check(expected, sparkContext, conf)
    val graph = CallGraph.of(calls, answers, filters)
    // A graph without columns still needs one, so that the worker knows the number of rows.
    val inputs = if (graph.inputs.isEmpty) Seq(Literal.TrueLiteral) else graph.inputs
    val returnType = EvalLLMExec.returnType(calls)
    val command = PythonCommand(sparkContext, conf, payload(graph, returnType))
    val udf = PythonUDF(
      name = "llm",
      func = command,
      dataType = returnType,
      children = inputs,
      evalType = PythonEvalType.SQL_SCALAR_ARROW_ITER_UDF,
      udfDeterministic = calls.forall(_.deterministic))
    val struct = udf.resultAttribute
    val python = new ArrowEvalPythonEvaluatorFactory(
      child.output,
      Seq(udf),
      child.output :+ struct,
      batchRows,
      PythonEvalType.SQL_SCALAR_ARROW_ITER_UDF,
      conf.sessionLocalTimeZone,
      conf.arrowUseLargeVarTypes,
      ArrowPythonRunner.getPythonRunnerConfMap(conf),
      pythonMetrics,
      jobArtifactUUID,
      None)
    val factory = new EvalLLMEvaluatorFactory(
      python,
      command.envVars,
      child.output :+ struct,
      calls.indices.map(i => GetStructField(struct, i)),
      UsageCounters.names.map(metrics.get),
      longMetric("numOutputRows"),
      UsageCounters.of(conf, sparkContext))
    val rows = if (conf.usePartitionEvaluator) {
      child.execute().mapPartitionsWithEvaluator(factory)
    } else {
      child.execute().mapPartitionsWithIndexInternal { (index, rows) =>
        factory.createEvaluator().eval(index, rows)
      }
    }
    CallResources.ask(rows, conf)
  }

  /** The worker sees no row of a batch that is not full, and what is asked first must reach it. */
  private def batchRows: Int = {
    val most = HeliumConf.int(conf, "spark.helium.stream.batchRows")
    pace.fold(most)(_.first.min(most))
  }

  private def payload(graph: CallGraph, returnType: StructType): String = {
    val settings = HeliumConf.snapshot(conf).toList.sorted.map { case (k, v) => k -> JString(v) }
    CallGraph.render(JObject(List(
      "graph" -> graph.toJson,
      "settings" -> JObject(settings),
      "application" -> JString(sparkContext.applicationId),
      "return_type" -> JString(returnType.json)) ++
      pace.map(p => "pace" -> JInt(p.first))))
  }
}

object EvalLLMExec {

  private val failure: StructType = new StructType()
    .add("function", StringType).add("model", StringType)
    .add("prompt", StringType).add("reason", StringType)

  /** What the Python worker returns per row. */
  private def returnType(calls: Seq[LLMCall]): StructType = StructType(
    calls.zipWithIndex.map { case (c, i) => StructField(s"c$i", c.dataType) } ++
      Seq(StructField("usage", UsageCounters.schema), StructField("failure", failure)))

  private def metrics(exec: EvalLLMExec): Map[String, SQLMetric] = {
    val context = exec.sparkContext
    val shown = UsageCounters.descriptions.filter { case (name, _) =>
      exec.calls.exists(_.options.cascade.isDefined) || !UsageCounters.cascadeNames(name)
    }
    (shown :+ ("numOutputRows" -> "number of output rows")).map {
      case (name, description) => name -> SQLMetrics.createMetric(context, description)
    }.toMap
  }
}

/**
 * Wraps Spark's evaluator: tells the worker its executor's GPUs (`environment` is the worker's), counts usage,
 * ends the query on a failure, unpacks the answers.
 */
private class EvalLLMEvaluatorFactory(
    python: ArrowEvalPythonEvaluatorFactory,
    environment: JMap[String, String],
    pythonOutput: Seq[Attribute],
    answers: Seq[Expression],
    usageMetrics: Seq[Option[SQLMetric]],
    rowMetric: SQLMetric,
    usage: UsageCounters)
  extends PartitionEvaluatorFactory[InternalRow, InternalRow] {

  override def createEvaluator(): PartitionEvaluator[InternalRow, InternalRow] =
    new PartitionEvaluator[InternalRow, InternalRow] {

      private val structIndex = pythonOutput.size - 1
      private val usageIndex = answers.size
      private val failureIndex = answers.size + 1
      private val structSize = answers.size + 2

      override def eval(index: Int, inputs: Iterator[InternalRow]*): Iterator[InternalRow] = {
        val unpack = UnsafeProjection.create(pythonOutput.init ++ answers, pythonOutput)
        unpack.initialize(index)
        ExecutorGpus.tell(environment)
        python.createEvaluator().eval(index, inputs: _*).map { row =>
          val struct = row.getStruct(structIndex, structSize)
          if (!struct.isNullAt(usageIndex)) count(struct)
          if (!struct.isNullAt(failureIndex)) fail(struct)
          rowMetric += 1
          unpack(row)
        }
      }

      private def count(struct: InternalRow): Unit = {
        val size = usageMetrics.size
        val counts = struct.getStruct(usageIndex, size)
        val delta = Array.tabulate(size)(counts.getLong)
        delta.indices.foreach(i => usageMetrics(i).foreach(_ += delta(i)))
        usage.add(delta)
      }

      private def fail(struct: InternalRow): Unit = {
        val failure = struct.getStruct(failureIndex, 4)
        def text(i: Int): String = Option(failure.getUTF8String(i)).fold("")(_.toString)
        throw (text(0) match {
          case "daemon" => HeliumErrors.daemonFailed(text(3))
          case "budget" => HeliumErrors.budgetExceeded(text(3))
          case function => HeliumErrors.callFailed(function, text(1), text(2), text(3))
        })
      }
    }
}
