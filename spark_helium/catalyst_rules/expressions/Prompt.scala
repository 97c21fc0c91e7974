package org.apache.spark.sql.helium.expressions

import org.apache.spark.sql.catalyst.expressions.{Concat, Expression, Literal, RuntimeReplaceable}
import org.apache.spark.sql.catalyst.trees.TreePattern.{RUNTIME_REPLACEABLE, TreePattern}

/**
 * `prompt(template, args...)`: a template that stays visible where a prompt is expected. Anywhere
 * else it is the text that it renders to.
 */
case class Prompt(template: PromptTemplate, arguments: Seq[Expression])
  extends RuntimeReplaceable {

  override lazy val replacement: Expression = Concat(template.parts.map {
    case Text(value) => Literal(value)
    case Slot(i) => arguments(i)
  })

  override def children: Seq[Expression] = arguments

  override def prettyName: String = "prompt"

  override def toString: String = render(arguments.map(_.toString))

  override def sql: String = render(arguments.map(_.sql))

  private def render(args: Seq[String]): String =
    (s"'${template.sql}'" +: args).mkString("prompt(", ", ", ")")

  final override val nodePatterns: Seq[TreePattern] = Seq(RUNTIME_REPLACEABLE)

  override protected def withNewChildrenInternal(
      newChildren: IndexedSeq[Expression]): Prompt = copy(arguments = newChildren)
}
