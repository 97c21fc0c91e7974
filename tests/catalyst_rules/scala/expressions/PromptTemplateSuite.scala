package org.apache.spark.sql.helium.expressions

import org.apache.spark.sql.helium.testing.HeliumSuite

class PromptTemplateSuite extends HeliumSuite {

  private def parts(source: String): Seq[PromptPart] = PromptTemplate.parse(source).template.parts

  private def errorAt(source: String): Int =
    intercept[PromptTemplate.SyntaxError](PromptTemplate.parse(source)).position

  test("the three forms of placeholders") {
    equal(parts("a {} b {} c"), Seq(Text("a "), Slot(0), Text(" b "), Slot(1), Text(" c")))
    equal(parts("{1}{0}{1}"), Seq(Slot(1), Slot(0), Slot(1)))
    equal(parts("{x} and {y}, {x}"),
      Seq(Slot(0), Text(" and "), Slot(1), Text(", "), Slot(0)))
    equal(PromptTemplate.parse("{x} and {y}, {x}").names, Seq("x", "y"))
  }

  test("doubled braces are literal") {
    equal(parts("{{\"a\": {0}}}"), Seq(Text("{\"a\": "), Slot(0), Text("}")))
    equal(parts("{{{0}}}"), Seq(Text("{"), Slot(0), Text("}")))
    equal(parts(""), Nil)
  }

  test("what a template prints is read as the same template") {
    Seq("a {} b", "{{x}} {0}", "}}{{", "{a}{b}{a}", "ünï {0} 漢字 \n").foreach { source =>
      val template = PromptTemplate.parse(source).template
      equal(PromptTemplate.parse(template.sql).template, template, source)
    }
  }

  test("errors name the position") {
    equal(errorAt("abc }"), 4)
    equal(errorAt("abc {0"), 4)
    equal(errorAt("{0} {}"), 4)
    equal(errorAt("{} {x}"), 3)
    equal(errorAt("{a b}"), 0)
    equal(errorAt("{0:>3}"), 0)
    equal(errorAt("{-1}"), 0)
    equal(errorAt("{99999}"), 0)
  }
}
