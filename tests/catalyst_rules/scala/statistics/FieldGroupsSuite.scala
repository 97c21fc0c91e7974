package org.apache.spark.sql.helium.statistics

import scala.util.Random

import org.apache.spark.sql.helium.expressions.{FieldOrder, FixedOrder, OrderByValue}
import org.apache.spark.sql.helium.testing.HeliumSuite
import org.apache.spark.unsafe.types.UTF8String

class FieldGroupsSuite extends HeliumSuite {

  private def texts(rows: Seq[Seq[String]]): IndexedSeq[Array[UTF8String]] =
    rows.map(_.map(UTF8String.fromString).toArray).toIndexedSeq

  private def groups(rows: Seq[Seq[String]]): FieldGroups =
    new FieldGroups(texts(rows), Seq.fill(rows.head.size)(0))

  private def written(rows: Seq[Seq[String]]): FieldOrder = FieldOrder.asWritten(rows.head.size)

  /** The paper's definition, over fields that are looked at one by one. */
  private def naiveHits(rows: Seq[Seq[String]], order: FieldOrder): Long = {
    val lists = rows.distinct.map { row =>
      order.of(row.map(UTF8String.fromString).toArray).toSeq.map(f => f -> row(f))
    }
    // All lists that begin alike but for one share that beginning, in the order of the texts.
    (1 to rows.head.size).map { n =>
      lists.map(_.take(n)).groupBy(identity).map { case (begin, same) =>
        (same.size - 1L) * begin.last._2.length
      }.sum
    }.sum
  }

  test("a first field that is unique shares nothing, and last it shares all others (the paper's first table)") {
    val (n, m) = (8, 5)
    val rows = (0 until n).map(i => s"$i" +: Seq.fill(m - 1)("x"))
    val g = groups(rows)
    equal(g.hits(written(rows)), 0L)
    equal(g.hits(g.best), (n - 1L) * (m - 1))
    equal(g.best, FixedOrder(Seq(1, 2, 3, 4, 0)): FieldOrder)
  }

  test("groups in different fields: one order shares one of them, an order by value all (the paper's second table)") {
    // Three fields with x equal values each, in rows that do not overlap; everything else is unique.
    val x = 6
    val rows = (0 until 3).flatMap(group => (0 until x).map(i =>
      (0 until 3).map(field => if (field == group) "g" else ('a' + group * x + i).toChar.toString.replace("g", "G"))))
    val g = groups(rows)
    equal(g.hits(g.fixed), x - 1L)
    equal(g.hits(g.best), 3 * (x - 1L))
    rows.zipWithIndex.foreach { case (row, i) =>
      equal(g.best.of(texts(Seq(row)).head).head, i / x, s"$row begins with its group")
    }
  }

  test("the value with the greatest hit count goes first, not the most frequent one") {
    val rows = Seq(("long value", "s"), ("long value", "t"), ("b", "s"), ("c", "s"), ("d", "s"), ("e", "u"))
      .map { case (a, b) => Seq(a, b) }
    val g = groups(rows)
    val tree = g.greedy
    equal(tree.of(texts(rows).head).toSeq, Seq(0, 1))
    equal(tree.of(texts(rows)(2)).toSeq, Seq(1, 0))
    equal(g.hits(tree), 10L + 2)
  }

  test("a value brings along the fields that it determines, also where it does so in its group alone") {
    // A shop has one city and one phone, but for shop z, whose phone differs by row.
    val rows = (0 until 12).map { i =>
      val shop = Seq("x", "y", "z")(i % 3)
      Seq(s"note number $i", shop, s"city of $shop", if (shop == "z") s"phone $i" else s"phone of $shop")
    }
    val g = groups(rows)
    equal(g.hits(g.best), rows.groupBy(_(1)).values.map { same =>
      (same.size - 1L) * same.head.slice(1, if (same.head(1) == "z") 3 else 4).map(_.length).sum
    }.sum)
    equal(g.best.usual.last, 0)
  }

  test("rows that are equal are one prompt, and share nothing") {
    val rows = Seq(Seq("a", "x"), Seq("a", "x"), Seq("b", "y"))
    val g = groups(rows)
    equal(g.rows, 2)
    equal(g.characters, 4L)
    equal(g.hits(written(rows)), 0L)
    equal(g.best, written(rows), "among equals the order as written")
  }

  test("ties go to the order as written, and equal samples give equal trees") {
    val rows = Seq(Seq("a", "x"), Seq("a", "y"), Seq("b", "x"), Seq("b", "y"))
    equal(groups(rows).best, written(rows))
    val random = new Random(3)
    val table = Seq.fill(200)(Seq.fill(5)(random.nextInt(4).toString * (1 + random.nextInt(3))))
    equal(groups(table).best, groups(table).best)
    equal(groups(table).greedy.hashCode, groups(table).greedy.hashCode)
  }

  test("on no table is the order behind the one as written, hits are counted as defined, orders are permutations") {
    val random = new Random(1)
    (0 until 300).foreach { round =>
      val (n, m) = (1 + random.nextInt(30), 1 + random.nextInt(6))
      val widths = Seq.fill(m)(1 + random.nextInt(8))
      val kinds = Seq.fill(m)(1 + random.nextInt(n + 3))
      val rows = Seq.fill(n) {
        val hidden = random.nextInt(n + 1)
        (0 until m).map { f =>
          // Some fields depend on others.
          val value = if (f % 3 == 2) hidden % kinds(f) else random.nextInt(kinds(f))
          s"$value".padTo(widths(f), '.')
        }
      }
      val g = groups(rows)
      Seq(written(rows), g.fixed, g.best, g.greedy).foreach { order =>
        equal(g.hits(order), naiveHits(rows, order), s"round $round: hits of $order on $rows")
        rows.foreach(row => equal(order.of(texts(Seq(row)).head).sorted.toSeq, 0 until m))
      }
      if (g.hits(g.best) < g.hits(written(rows)).max(g.hits(g.fixed))) {
        throw new AssertionError(s"round $round: $rows")
      }
    }
  }

  test("rows that are not in the sample walk the same tree, by their values alone") {
    val x = 6
    val rows = (0 until 2).flatMap(group => (0 until x).map(i =>
      (0 until 2).map(field => if (field == group) s"group $field" else s"$group $i")))
    val order = groups(rows).best
    equal(order.isInstanceOf[OrderByValue], true, order.toString)
    equal(order.of(texts(Seq(Seq("new", "group 1"))).head).toSeq, Seq(1, 0))
    equal(order.of(texts(Seq(Seq("group 0", "new"))).head).toSeq, Seq(0, 1))
    equal(order.of(texts(Seq(Seq("new", "new"))).head).toSeq, order.usual)
  }

  test("the tree and the time for it are bounded") {
    val random = new Random(5)
    val rows = Seq.fill(8000)(Seq.fill(12)(s"value ${random.nextInt(3000)}"))
    val tree = groups(rows).greedy
    if (tree.size > 4096) throw new AssertionError(s"${tree.size} values")
  }
}
