package org.apache.spark.sql.helium.statistics

import java.util.{Arrays, HashMap => JHashMap}

import scala.collection.mutable

import org.apache.spark.sql.helium.expressions.{FieldOrder, FixedOrder}
import org.apache.spark.unsafe.types.UTF8String

/**
 * Orders of the fields of a record by what a sample of rows shares.
 *
 * What is counted is the ''prefix hit count'' of Liu et al., "Optimizing LLM Queries in Relational Data
 * Analytics Workloads" (arXiv 2403.05821), section 3: with the rows in the order of their texts, the characters of
 * the leading fields that each row has in common with the row before. The paper squares the lengths, which the
 * recursion follows where it chooses; what orders are compared by is the characters, each of which costs the same
 * in prefill. Rows that are equal are counted once, since they
 * are one prompt.
 *
 * [[best]] is the paper's greedy group recursion (section 4) with these differences:
 *
 *  - A value brings along the fields that have one value in its group, whether or not they depend on
 *    it elsewhere: no functional dependencies need to be declared.
 *  - The values of one field that lead those of all other fields are taken in one step.
 *  - A group is taken apart only where that shares more than the best single order for all rows
 *    ([[fixed]]), so that rows that are not in the sample mostly meet rows in the order of their own.
 *  - The result is a tree over the values instead of a list of rows.
 *
 * Nothing here depends on a clock or on chance: equal samples give equal orders.
 *
 * @param texts the rows, each with its values as JSON
 * @param overheads the characters that each field takes beside its value
 */
class FieldGroups(texts: IndexedSeq[Array[UTF8String]], overheads: Seq[Int]) {

  import FieldGroups._

  private val m = overheads.size
  require(m <= mostFields, s"$m fields")

  // Values are numbered by field; columns of numbers are what everything below works on.
  private val values = Array.fill(m)(mutable.ArrayBuffer.empty[UTF8String])
  private val codes: Array[Array[Int]] = encode()
  private val n = if (m == 0) 0 else codes(0).length
  private val lengths: Array[Array[Int]] =
    Array.tabulate(m)(f => values(f).map(_.numChars() + overheads(f)).toArray)
  private val hashes: Array[Array[Long]] = Array.tabulate(m)(f => values(f).map(FieldOrder.hash).toArray)

  /** Different rows of the sample. */
  def rows: Int = n

  /** Characters of the fields of all rows. */
  lazy val characters: Long = (0 until m).map(f => codes(f).map(lengths(f)(_).toLong).sum).sum

  private def encode(): Array[Array[Int]] = {
    val numbers = Array.fill(m)(new JHashMap[UTF8String, Integer])
    val all = Array.ofDim[Int](m, texts.size)
    for (row <- texts.indices; f <- 0 until m) {
      val text = texts(row)(f)
      val known = numbers(f).get(text)
      all(f)(row) = if (known != null) known else {
        values(f) += text
        numbers(f).put(text, values(f).size - 1)
        values(f).size - 1
      }
    }
    val ids = new Array[Int](texts.size)
    val pairs = new Pairs(texts.size)
    (0 until m).foreach(f => pairs.refine(ids, ids, all(f), texts.size))
    val seen = new mutable.BitSet(texts.size)
    val firsts = texts.indices.filter(row => seen.add(ids(row))).toArray
    all.map(column => firsts.map(column(_)))
  }

  /** Characters of leading fields that the rows share with the row before them in the order of their texts. */
  def hits(order: FieldOrder): Long = known.getOrElseUpdate(order, count(order))

  private val known = mutable.HashMap.empty[FieldOrder, Long]

  private def count(order: FieldOrder): Long = {
    val written = Array.tabulate(n) { row =>
      positions(order, row).map(f => f.toLong << 32 | codes(f)(row))
    }
    Arrays.sort(written, (a: Array[Long], b: Array[Long]) => Arrays.compare(a, b))
    var total = 0L
    var row = 1
    while (row < n) {
      var at = 0
      while (at < m && written(row)(at) == written(row - 1)(at)) {
        total += lengths((written(row)(at) >> 32).toInt)(written(row)(at).toInt)
        at += 1
      }
      row += 1
    }
    total
  }

  private def positions(order: FieldOrder, row: Int): Array[Int] =
    order.of(Array.tabulate(m)(f => values(f)(codes(f)(row))))

  /**
   * The order that shares most among the order as written, [[fixed]] and the greedy tree, which fits
   * the rows of the sample above all and must share [[leastGain]] of the characters more than one order does.
   */
  lazy val best: FieldOrder = {
    def better(a: (FieldOrder, Long), b: (FieldOrder, Long), by: Double): (FieldOrder, Long) =
      if (b._2 > a._2 + by) b else a
    def counted(order: FieldOrder) = order -> hits(order)
    val simple = better(counted(FieldOrder.asWritten(m)), counted(fixed), 0)
    better(simple, counted(greedy), leastGain * characters)._1
  }

  /** The tree by greedy group recursion; it goes by squared lengths, as the paper does. */
  lazy val greedy: FieldOrder = new Recursion().order

  /**
   * A good order for all rows: by beam search over the sets of fields that come first, then by moves of a few
   * neighbours. A set is judged by what it shares and what each other field could share right behind it, which is
   * never less than what it will.
   */
  lazy val fixed: FixedOrder = {
    class State(val order: Vector[Int], val set: Long, val ids: Array[Int], val shared: Long) {
      private val isFull = set != 0 && pairs.groups(ids) == n // no two rows share what comes next
      val gains: Map[Int, (Long, Array[Int])] = (0 until m).filterNot(f => (set >> f & 1) == 1).map { f =>
        if (isFull) f -> (0L, ids) else {
          val refined = new Array[Int](n)
          f -> (pairs.shared(ids, refined, codes(f), lengths(f), n), refined)
        }
      }.toMap
      def bound: Long = shared + gains.values.map(_._1).sum
    }
    var beam = Seq(new State(Vector.empty, 0, new Array[Int](n), 0))
    (0 until m).foreach { _ =>
      val next = mutable.LinkedHashMap.empty[Long, State]
      for (state <- beam; (f, (gain, ids)) <- state.gains.toSeq.sortBy(_._1)) {
        val set = state.set | 1L << f
        if (next.get(set).forall(_.shared < state.shared + gain)) {
          next(set) = new State(state.order :+ f, set, ids, state.shared + gain)
        }
      }
      beam = next.values.toSeq.sortBy(s => (-s.bound, -s.shared)).take(if (m <= 12) 3 else 1)
    }
    FixedOrder(moved(beam.head.order.toArray).toSeq)
  }

  /** The order after moves of neighbours to another place, each of which shares more, until none is left. */
  private def moved(start: Array[Int]): Array[Int] = {
    var order = start
    var work = 0L
    // By place: the groups behind the fields up to it. What a move shares differs between its two places alone.
    val groups = Array.ofDim[Int](m + 1, n)
    val shared = new Array[Long](m)
    var full = m // the first place behind which no two rows share anything
    def renew(from: Int): Unit = {
      (from until m).foreach { at =>
        shared(at) = pairs.shared(groups(at), groups(at + 1), codes(order(at)), lengths(order(at)), n)
      }
      full = (1 to m).find(at => pairs.groups(groups(at)) == n).getOrElse(m)
    }
    renew(0)
    val ids = new Array[Int](n)
    // Fields that depend on each other move together.
    val moves = for (run <- 1 to mostMoved.min(m - 1); from <- 0 to m - run; to <- 0 to m - run if to != from)
      yield (run, from, to)
    var quiet = 0
    var next = 0
    while (quiet < moves.size && work < mostMoving) {
      val (run, from, to) = moves(next)
      val (low, high) = (from.min(to), from.max(to) + run - 1)
      val before = (low to high).map(shared(_)).sum
      val changed = order.patch(from, Nil, run).patch(to, order.slice(from, from + run), 0)
      var now = 0L
      if (low < full) {
        System.arraycopy(groups(low), 0, ids, 0, n)
        now = (low to high).map(at => pairs.shared(ids, ids, codes(changed(at)), lengths(changed(at)), n)).sum
        work += n.toLong * (high - low + 1)
      }
      if (now > before) {
        order = changed
        renew(low)
        quiet = 0
      } else {
        quiet += 1
      }
      next = (next + 1) % moves.size
    }
    order
  }

  private val pairs = new Pairs(n)

  /** One run of greedy group recursion. */
  private class Recursion {

    private val usual = fixed.fields.toArray
    private val count = Array.tabulate(m)(f => new Array[Int](values(f).size))
    private val first = Array.tabulate(m)(f => new Array[Int](values(f).size))
    private val constant = Array.tabulate(m)(f => new Array[Long](values(f).size))
    private var work = 0L
    private var asked = 0

    lazy val order: FieldOrder = build(Array.range(0, n), (1L << m) - 1, Vector.empty)._1

    private def in(set: Long): Array[Int] = usual.filter(f => (set >> f & 1) == 1)

    /** What the rows share with the fields of a set in the usual order behind what they have in common. */
    private def sharedAsUsual(rows: Array[Int], set: Long): Long = {
      val ids = new Array[Int](rows.length)
      var total = 0L
      val fields = in(set)
      var at = 0
      while (at < fields.length && pairs.groups(ids) < rows.length) {
        val column = codes(fields(at))
        total += pairs.shared(ids, ids, rows.map(column(_)), lengths(fields(at)), rows.length)
        at += 1
      }
      work += rows.length.toLong * at
      total
    }

    /** The order of the rows behind the fields `before`, and the characters that it shares there. */
    private def build(rows: Array[Int], open: Long, before: Vector[Int]): (FieldOrder, Long) = {
      val plain = FixedOrder(before ++ in(open))
      val plainShared = sharedAsUsual(rows, open)
      if (rows.length < 2 || java.lang.Long.bitCount(open) < 2) {
        (plain, plainShared)
      } else {
        val splits = mutable.ArrayBuffer.empty[(Int, Seq[(Long, FieldOrder)])]
        var rest = rows
        var shared = 0L
        var round = 0
        var go = true
        while (go && round < mostRounds && rest.length > 1 && work < mostWork && asked < mostValues) {
          val (field, group) = leaders(rest, open, last = round == mostRounds - 1)
          go = group.nonEmpty
          if (go) {
            val members = mutable.LinkedHashMap.from(group.map(_ -> new mutable.ArrayBuilder.ofInt))
            rest.foreach(row => members.get(codes(field)(row)).foreach(_ += row))
            // Noted before the recursion, which counts in the same arrays.
            val children = members.toSeq.map { case (code, rows) => (code, rows.result(), constant(field)(code)) }
            asked += children.size
            val orders = children.map { case (code, members, set) =>
              val (order, below) = build(members, open & ~set, before ++ in(set))
              shared += (members.length - 1).toLong * in(set).map(g => lengths(g)(codes(g)(members(0))).toLong).sum +
                below
              hashes(field)(code) -> order
            }
            splits += field -> orders
            rest = rest.filterNot(row => members.contains(codes(field)(row)))
          }
          round += 1
        }
        shared += sharedAsUsual(rest, open)
        if (shared <= plainShared) {
          (plain, plainShared)
        } else {
          // A value that the tree need not ask for is left out, from the last split on.
          val tree = splits.foldRight(plain: FieldOrder) { case ((field, orders), otherwise) =>
            FieldOrder.byValue(field, orders.filterNot(_._2 == otherwise), otherwise)
          }
          (tree, shared)
        }
      }
    }

    /** The field whose value has the greatest hit count, and its values that are ahead of all other fields'. */
    private def leaders(rows: Array[Int], open: Long, last: Boolean): (Int, Seq[Int]) = {
      val fields = in(open).sorted
      val most = fields.map(f => { tally(rows, open, f); f })
      val scores = most.map { f =>
        val seen = mutable.ArrayBuffer.empty[(Int, Double)]
        rows.foreach { row =>
          val code = codes(f)(row)
          if (first(f)(code) == row && count(f)(code) > 1) seen += code -> hitCount(f, code)
        }
        f -> seen
      }.filter(_._2.nonEmpty)
      if (scores.isEmpty) {
        (-1, Nil)
      } else {
        val (field, own) = scores.map { case (f, s) => (f, s, s.map(_._2).max, s.map(_._2).sum) }
          .reduceLeft((a, b) => if (b._3 > a._3 || b._3 == a._3 && b._4 > a._4) b else a) match {
            case (f, s, _, _) => (f, s)
          }
        val behind = if (last) 0.0 else scores.filter(_._1 != field).flatMap(_._2.map(_._2)).maxOption.getOrElse(0.0)
        (field, own.filter(_._2 >= behind).map(_._1).toSeq.take((mostValues - asked).max(1)))
      }
    }

    private def hitCount(f: Int, code: Int): Double = {
      val row = first(f)(code)
      var total = 0.0
      var set = constant(f)(code)
      while (set != 0) {
        val g = java.lang.Long.numberOfTrailingZeros(set)
        val length = lengths(g)(codes(g)(row)).toDouble
        total += length * length
        set &= set - 1
      }
      total * (count(f)(code) - 1)
    }

    /** By value of a field: how many rows have it, the first of them, and the fields that it determines. */
    private def tally(rows: Array[Int], open: Long, f: Int): Unit = {
      val column = codes(f)
      rows.foreach(row => count(f)(column(row)) = 0)
      rows.foreach { row =>
        val code = column(row)
        if (count(f)(code) == 0) {
          first(f)(code) = row
          constant(f)(code) = open
        } else {
          var set = constant(f)(code)
          val other = first(f)(code)
          var left = set
          while (left != 0) {
            val g = java.lang.Long.numberOfTrailingZeros(left)
            if (codes(g)(row) != codes(g)(other)) set &= ~(1L << g)
            left &= left - 1
          }
          constant(f)(code) = set
        }
        count(f)(code) += 1
      }
      work += rows.length.toLong * java.lang.Long.bitCount(open)
    }
  }
}

object FieldGroups {

  /** Sets of fields are bits of a Long. */
  val mostFields = 60

  /** The share of all characters for which a tree is worth while. */
  val leastGain = 0.005

  // Bounds on the tree, and on the time that it takes: some tenths of a second.
  private val mostRounds = 16
  private val mostMoved = 4
  private val mostMoving = 4000000L
  private val mostValues = 4096
  private val mostWork = 20000000L

  /** Numbers pairs of numbers in the order in which they appear: a hash table that is used again and again. */
  private class Pairs(most: Int) {

    private val size = Integer.highestOneBit((most * 2).max(16)) * 2
    private val keys = new Array[Long](size)
    private val numbers = new Array[Int](size)
    private val stamps = new Array[Int](size)
    private var stamp = 0
    private var next = 0
    private var isNew = false

    private def number(a: Int, b: Int): Int = {
      val key = a.toLong << 32 | b
      val mixed = key * 0x9E3779B97F4A7C15L
      var at = (mixed >>> 40).toInt & (size - 1)
      while (stamps(at) == stamp && keys(at) != key) at = (at + 1) & (size - 1)
      isNew = stamps(at) != stamp
      if (isNew) {
        stamps(at) = stamp
        keys(at) = key
        numbers(at) = next
        next += 1
      }
      numbers(at)
    }

    private def begin(): Unit = {
      stamp += 1
      next = 0
    }

    /** Groups by pairs of a group and a value. */
    def refine(groups: Array[Int], refined: Array[Int], codes: Array[Int], n: Int): Unit = {
      begin()
      var row = 0
      while (row < n) {
        refined(row) = number(groups(row), codes(row))
        row += 1
      }
    }

    /** The same, and the characters of all values but the first in each new group. */
    def shared(
        groups: Array[Int], refined: Array[Int], codes: Array[Int], lengths: Array[Int], n: Int): Long = {
      begin()
      var total = 0L
      var row = 0
      while (row < n) {
        refined(row) = number(groups(row), codes(row))
        if (!isNew) total += lengths(codes(row))
        row += 1
      }
      total
    }

    /** How many groups there are. */
    def groups(groups: Array[Int]): Int = {
      var most = -1
      var row = 0
      while (row < groups.length) {
        if (groups(row) > most) most = groups(row)
        row += 1
      }
      most + 1
    }
  }
}
