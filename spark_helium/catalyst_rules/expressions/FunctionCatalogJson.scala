package org.apache.spark.sql.helium.expressions

import org.json4s._
import org.json4s.jackson.JsonMethods

import org.apache.spark.sql.helium.expressions.FunctionCatalog.Group

/** Prints the documented functions as JSON, in the order of the documentation: what the page is made from. */
object FunctionCatalogJson {

  def main(args: Array[String]): Unit = println(JsonMethods.compact(render))

  def render: JValue = JArray(Group.all.filter(_.isDocumented).toList.flatMap { group =>
    FunctionCatalog.of(group).map { f =>
      JObject(
        "name" -> JString(f.name),
        "group" -> JString(group.title),
        "usage" -> JString(named(f, f.usage)),
        "arguments" -> JString(named(f, f.arguments)),
        "examples" -> JString(named(f, f.examples)))
    }
  })

  /** As DESCRIBE FUNCTION writes it. */
  private def named(f: FunctionCatalog.Function, text: String): String = text.replace("_FUNC_", f.name)
}
