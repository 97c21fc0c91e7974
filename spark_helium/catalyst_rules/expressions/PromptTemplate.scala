package org.apache.spark.sql.helium.expressions

import scala.collection.mutable

/** A piece of a template: literal text, or a placeholder for the argument with this index. */
sealed trait PromptPart
case class Text(value: String) extends PromptPart
case class Slot(index: Int) extends PromptPart

/**
 * A prompt template, parsed once at analysis. Rules and the call graph share this value; nobody
 * parses the string again.
 */
case class PromptTemplate(parts: Seq[PromptPart]) {

  def slots: Seq[Int] = parts.collect { case Slot(i) => i }

  def mapSlots(f: Int => Int): PromptTemplate = PromptTemplate(parts.map {
    case Slot(i) => Slot(f(i))
    case text => text
  })

  /** The template as a user would write it, with placeholders by position. */
  def sql: String = parts.map {
    case Text(value) => value.replace("{", "{{").replace("}", "}}")
    case Slot(i) => s"{$i}"
  }.mkString
}

object PromptTemplate {

  /** Says where and why a template cannot be read. */
  case class SyntaxError(position: Int, reason: String) extends Exception(reason)

  /**
   * A parsed template. `names` are the names of the placeholders by slot, when they are named.
   */
  case class Parsed(template: PromptTemplate, names: Seq[String])

  /**
   * Reads `{}`, `{0}` and `{name}` placeholders; `{{` and `}}` are literal braces. One template
   * uses one of the three forms. A name stands for the position of its first appearance.
   *
   * @throws SyntaxError with the 0-based position of the first character that cannot be read
   */
  def parse(source: String): Parsed = {
    val parts = mutable.ArrayBuffer.empty[PromptPart]
    val text = new StringBuilder
    val names = mutable.ArrayBuffer.empty[String]
    var form: Option[String] = None
    var automatic = 0
    var i = 0

    def useForm(wanted: String): Unit = form match {
      case Some(other) if other != wanted =>
        throw SyntaxError(i, s"a $wanted placeholder follows $other ones")
      case _ => form = Some(wanted)
    }

    while (i < source.length) {
      source.charAt(i) match {
        case '{' if source.startsWith("{{", i) =>
          text.append('{')
          i += 2
        case '}' if source.startsWith("}}", i) =>
          text.append('}')
          i += 2
        case '}' => throw SyntaxError(i, "a closing brace stands alone")
        case '{' =>
          val end = source.indexOf('}', i)
          if (end < 0) throw SyntaxError(i, "an opening brace is never closed")
          val name = source.substring(i + 1, end)
          val slot = name match {
            case "" =>
              useForm("{}")
              automatic += 1
              automatic - 1
            case digits if digits.length <= 4 && digits.forall(c => c >= '0' && c <= '9') =>
              useForm("{0}")
              digits.toInt
            case word if isName(word) =>
              useForm("{name}")
              if (!names.contains(word)) names += word
              names.indexOf(word)
            case other => throw SyntaxError(i, s"{$other} is no placeholder")
          }
          if (text.nonEmpty) parts += Text(text.result())
          text.clear()
          parts += Slot(slot)
          i = end + 1
        case c =>
          text.append(c)
          i += 1
      }
    }
    if (text.nonEmpty) parts += Text(text.result())
    Parsed(PromptTemplate(parts.toSeq), names.toSeq)
  }

  def literal(text: String): PromptTemplate =
    PromptTemplate(if (text.isEmpty) Nil else Seq(Text(text)))

  private def isName(word: String): Boolean =
    (word.head.isLetter || word.head == '_') && word.forall(c => c.isLetterOrDigit || c == '_')
}
