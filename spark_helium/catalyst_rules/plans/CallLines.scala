package org.apache.spark.sql.helium.plans

import java.util.{ArrayList => JArrayList}

import scala.jdk.CollectionConverters._

import org.apache.spark.sql.catalyst.expressions.Attribute
import org.apache.spark.sql.helium.expressions.LLMCall

/**
 * The calls of a node as EXPLAIN shows them below its name, in lines of at most [[width]] columns:
 *
 * {{{
 *   +- EvalLLM 2 calls
 *      |  tone#7 = llm('Is {0} calm or angry?', body#2, model => 'smollm2-135m',
 *      |    max_tokens => 4, choices => array('calm', 'angry'))
 *      |  why#8 = llm('Why? {0}', body#2, model => 'smollm2-135m', max_tokens => 32)
 *      |    when (tone#7 = angry)
 *      |  PlaceCallsByCost: not moved, the join reads tone#7
 *      +- Relation ...
 * }}}
 */
object CallLines {

  val width = 80

  /** Lines without a tree's prefix; a line that continues one begins with two spaces. */
  def apply(
      calls: Seq[LLMCall], answers: Seq[Attribute], notes: Seq[RuleNote]): Seq[String] = {
    val described = calls.zip(answers).flatMap { case (call, answer) =>
      val merged = if (call.multiplicity > 1) s" (for ${call.multiplicity} equal calls)" else ""
      val cascade = call.options.cascade.map(c => s"  approximate: ${c.model} decides the rows that it is sure of, " +
        s"${call.options.model} the others")
      s"$answer = ${call.describe}$merged" +: (cascade.toSeq ++ call.guard.map(g => s"  when $g"))
    }
    described ++ notes.filterNot(_.routine).map(n => s"${n.rule}: ${if (n.applied) "" else "declined, "}${n.text}")
  }

  /** What `append` gets, with the lines inserted behind the first line, the node's own. */
  def after(
      append: String => Unit,
      depth: Int,
      lastChildren: JArrayList[Boolean],
      indent: Int,
      lines: Seq[String]): String => Unit = {
    var pending = true
    text => {
      append(text)
      if (pending && text == "\n") {
        pending = false
        val levels = if (depth == 0) "" else lastChildren.asScala.map(if (_) "   " else ":  ").mkString
        val prefix = "   " * indent + levels + "|  "
        lines.flatMap(wrapped(_, (width - prefix.length).max(20)))
          .foreach(line => append(s"$prefix$line\n"))
      }
    }
  }

  /** A line broken at spaces; what continues it is set in by two more spaces. */
  private[plans] def wrapped(line: String, width: Int): Seq[String] = {
    val clean = line.replace("\n", "\\n")
    val margin = clean.takeWhile(_ == ' ')

    def broken(text: String, before: String): Seq[String] = {
      val room = (width - before.length).max(10)
      if (text.length <= room) {
        Seq(before + text)
      } else {
        // Behind a comma rather than inside an option or a list.
        val comma = text.lastIndexOf(", ", room - 1) + 1
        val space = text.lastIndexOf(' ', room)
        val end = if (comma > room * 2 / 3) comma else if (space > room / 3) space else room
        (before + text.take(end)) +: broken(text.drop(end).stripLeading, s"$margin  ")
      }
    }
    broken(clean.drop(margin.length), margin)
  }
}
