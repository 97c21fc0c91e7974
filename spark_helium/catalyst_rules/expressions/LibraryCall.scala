package org.apache.spark.sql.helium.expressions

import org.apache.spark.sql.catalyst.expressions.{Expression, InheritAnalysisRules, RuntimeReplaceable}

/**
 * A function of the library as the query's text has it, so that columns get short names. The optimizer
 * puts the LLM call, with its prompt, and what stands around it in its place before any rule looks.
 *
 * @param written arguments in the order of the text, some of them with a name
 */
case class LibraryCall(
    function: String, written: Seq[(Option[String], Expression)], replacement: Expression)
  extends RuntimeReplaceable
  with InheritAnalysisRules {

  override def prettyName: String = function

  override def parameters: Seq[Expression] = written.map(_._2)

  override def flatArguments: Iterator[Any] = parameters.iterator

  override def makeSQLString(childrenSQL: Seq[String]): String =
    written.zip(childrenSQL).map {
      case ((Some(name), _), value) => s"$name => $value"
      case ((None, _), value) => value
    }.mkString(s"$function(", ", ", ")")

  override def toString: String = makeSQLString(parameters.map(_.toString))

  override protected def withNewChildInternal(newChild: Expression): LibraryCall =
    copy(replacement = newChild)
}
