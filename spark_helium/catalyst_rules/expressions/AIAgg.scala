package org.apache.spark.sql.helium.expressions

import org.apache.spark.SparkException
import org.apache.spark.sql.catalyst.InternalRow
import org.apache.spark.sql.catalyst.expressions.{AttributeReference, Expression}
import org.apache.spark.sql.catalyst.expressions.codegen.{CodegenContext, ExprCode}
import org.apache.spark.sql.catalyst.expressions.aggregate.AggregateFunction
import org.apache.spark.sql.types.{DataType, StructType}

/**
 * An aggregate whose value a language model makes of a group's texts: `ai_agg`, `ai_summarize_agg`.
 *
 * It has no buffers: `RewriteAIAggregates` turns it into an ordinary aggregate that collects the texts,
 * and a call over them, before Spark plans aggregates. NULLs are passed over; a group without texts
 * gives NULL.
 *
 * @param content the texts
 * @param call the call, over an argument that stands for the array of the group's texts
 * @param partial whether the texts are reduced within their partitions first
 */
case class AIAgg(content: Expression, call: LLMCall, partial: Boolean = false) extends AggregateFunction {

  override def children: Seq[Expression] = Seq(content)

  override def dataType: DataType = call.dataType

  override def nullable: Boolean = true

  override def prettyName: String = call.function

  override def toString: String = shown(call.over(Seq(content)).toString)

  override def sql(isDistinct: Boolean): String = {
    val text = shown(call.over(Seq(content)).sql)
    if (isDistinct) text.replaceFirst("\\(", "(DISTINCT ") else text
  }

  private def shown(text: String): String = if (partial) text.stripSuffix(")") + ", partial => true)" else text

  override def toAggString(isDistinct: Boolean): String = {
    val text = toString
    if (isDistinct) text.replaceFirst("\\(", "(distinct ") else text
  }

  override def aggBufferSchema: StructType = new StructType

  override def aggBufferAttributes: Seq[AttributeReference] = Nil

  override def inputAggBufferAttributes: Seq[AttributeReference] = Nil

  override def eval(input: InternalRow): Any = notRewritten()

  override protected def doGenCode(ctx: CodegenContext, ev: ExprCode): ExprCode = notRewritten()

  private def notRewritten(): Nothing =
    throw SparkException.internalError(s"$prettyName was not rewritten before it was evaluated")

  override protected def withNewChildrenInternal(newChildren: IndexedSeq[Expression]): AIAgg =
    copy(content = newChildren.head)
}

object AIAgg {

  def isIn(expression: Expression): Boolean = expression.exists(_.isInstanceOf[AIAgg])

  /** An aggregate of the expressions, to name in a message. */
  def firstIn(expressions: Iterable[Expression]): Option[AIAgg] =
    expressions.iterator.flatMap(_.collectFirst { case f: AIAgg => f }).nextOption()
}
