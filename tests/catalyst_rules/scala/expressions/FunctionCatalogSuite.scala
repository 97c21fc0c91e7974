package org.apache.spark.sql.helium.expressions

import java.util.Locale

import org.apache.spark.sql.catalyst.analysis.FunctionRegistry
import org.apache.spark.sql.helium.expressions.FunctionCatalog.Group
import org.apache.spark.sql.helium.testing.HeliumSuite

class FunctionCatalogSuite extends HeliumSuite {

  test("no name appears twice, and none hides a function of Spark's") {
    val names = FunctionCatalog.all.map(_.name.toLowerCase(Locale.ROOT))
    equal(names.diff(names.distinct), Nil, "twice")
    val ofSpark = FunctionRegistry.builtin.listFunction().map(_.funcName).toSet
    equal(names.filter(ofSpark), Nil, "a function of Spark's")
  }

  test("every function is in one of the groups, and a documented one has all its texts") {
    equal(Group.all.flatMap(FunctionCatalog.of).size, FunctionCatalog.all.size)
    FunctionCatalog.all.filter(_.group.isDocumented).foreach { f =>
      equal(f.usage.startsWith("_FUNC_("), true, s"${f.name}: usage")
      equal(f.arguments.trim.startsWith("Arguments:"), true, s"${f.name}: arguments")
      equal(f.examples.trim.startsWith("Examples:"), true, s"${f.name}: examples")
    }
  }
}
