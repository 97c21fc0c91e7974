package org.apache.spark.sql.helium.expressions.functions

import org.apache.spark.sql.helium.execution.{QueryReport, UsageCounters}
import org.apache.spark.sql.helium.expressions.FunctionCatalog.{Function, Group}
import org.apache.spark.sql.helium.expressions.NamedArgument

/** What the Python API is built on; nothing for users' queries. */
object Plumbing {

  val functions: Seq[Function] = Seq(
    Function(
      name = NamedArgument.function,
      usage = "_FUNC_(name, value) - The named argument name => value of the enclosing function.",
      arguments = "", examples = "", group = Group.Plumbing,
      builder = NamedArgument.build),
    Function(
      name = UsageCounters.function,
      usage = "_FUNC_() - What the LLM calls of this session have used so far.",
      arguments = "", examples = "", group = Group.Plumbing,
      builder = UsageCounters.build),
    Function(
      name = QueryReport.function,
      usage = "_FUNC_(view, analyze) - What the optimizer makes of a view's LLM calls, as JSON.",
      arguments = "", examples = "", group = Group.Plumbing,
      builder = QueryReport.build))
}
