package org.apache.spark.sql.helium

import java.util.concurrent.TimeUnit

import scala.io.Source

import org.json4s._
import org.json4s.jackson.JsonMethods

import org.apache.spark.SparkConf
import org.apache.spark.internal.config.{ConfigEntry, TypedConfigBuilder}
import org.apache.spark.network.util.ByteUnit
import org.apache.spark.sql.internal.SQLConf

/**
 * The settings `spark.helium.*`. Their registry is `spark-helium-settings.json`, which the Python
 * side reads too; here each becomes an entry of Spark's own configuration system, so that
 * `SET` and `spark.conf.set` check values.
 */
object HeliumConf {

  private case class Setting(
      key: String, tpe: String, default: String, doc: String, since: String, check: JValue)

  private val settings: Seq[Setting] = resource("spark-helium-settings.json") \ "settings" match {
    case JArray(items) => items.map { item =>
      def text(field: String): String = (item \ field) match {
        case JString(s) => s
        case other => throw new IllegalStateException(s"setting without $field: $other")
      }
      Setting(text("key"), text("type"), text("default"), text("doc"), text("since"),
        item \ "check")
    }
    case other => throw new IllegalStateException(s"no settings in the registry: $other")
  }

  private val entries: Map[String, ConfigEntry[_]] = settings.map(s => s.key -> register(s)).toMap

  /** Names of the built-in models; any path or hub name is allowed beside them. */
  val builtInModels: Seq[String] =
    (resource("spark-helium-models.json") \ "models") match {
      case JArray(items) => items.map(_ \ "name").collect { case JString(name) => name }
      case _ => Nil
    }

  /** Makes the entries known to Spark, and checks what the session was configured with. */
  def validate(conf: SparkConf): Unit = {
    conf.getAllWithPrefix("spark.helium.").foreach { case (suffix, value) =>
      val key = "spark.helium." + suffix
      val entry = entries.getOrElse(key, throw HeliumErrors.settingUnknown(key, keys))
      try {
        entry.valueConverter(value)
      } catch {
        case e: Exception =>
          val reason = Option(e.getMessage).getOrElse(e.getClass.getSimpleName).stripSuffix(".")
          throw HeliumErrors.settingInvalid(key, value, reason + ".", entry.doc)
      }
    }
  }

  def keys: Seq[String] = settings.map(_.key)

  /** Text of every setting as the session has it now, for the Python side. */
  def snapshot(conf: SQLConf): Map[String, String] =
    settings.map(s => s.key -> text(conf, s.key)).toMap

  def text(conf: SQLConf, key: String): String =
    conf.getConfString(key, entries(key).defaultValueString)

  def boolean(conf: SQLConf, key: String): Boolean =
    entries(key).valueConverter(text(conf, key)).asInstanceOf[Boolean]

  def int(conf: SQLConf, key: String): Int =
    entries(key).valueConverter(text(conf, key)).asInstanceOf[Int]

  private def register(s: Setting): ConfigEntry[_] = {
    val builder = SQLConf.buildConf(s.key).doc(s.doc).version(s.since)
    s.tpe match {
      case "boolean" => builder.booleanConf.createWithDefaultString(s.default)
      case "int" => bounded(builder.intConf, s)(_.toDouble).createWithDefaultString(s.default)
      case "double" => bounded(builder.doubleConf, s)(identity).createWithDefaultString(s.default)
      case "duration" =>
        bounded(builder.timeConf(TimeUnit.MILLISECONDS), s)(_.toDouble)
          .createWithDefaultString(s.default)
      case "bytes" =>
        bounded(builder.bytesConf(ByteUnit.BYTE), s)(_.toDouble)
          .createWithDefaultString(s.default)
      case "string" => checked(builder.stringConf, s).createWithDefaultString(s.default)
      case other => throw new IllegalStateException(s"setting ${s.key} has the type $other")
    }
  }

  private def bounded[T](builder: TypedConfigBuilder[T], s: Setting)(
      toDouble: T => Double): TypedConfigBuilder[T] = {
    def bound(name: String): Option[Double] = (s.check \ name) match {
      case JInt(n) => Some(n.toDouble)
      case JDouble(d) => Some(d)
      case _ => None
    }
    val low = bound("min").foldLeft(builder) { (b, min) =>
      b.checkValue(v => toDouble(v) >= min, s"it must be at least ${plain(min)}")
    }
    bound("max").foldLeft(low) { (b, max) =>
      b.checkValue(v => toDouble(v) <= max, s"it must be at most ${plain(max)}")
    }
  }

  private def checked(builder: TypedConfigBuilder[String], s: Setting) = {
    val values = (s.check \ "values") match {
      case JArray(items) => items.collect { case JString(v) => v }
      case _ => Nil
    }
    val nonEmpty = (s.check \ "nonempty") == JBool(true)
    val pattern = (s.check \ "pattern") match {
      case JString(p) => Some(p)
      case _ => None
    }
    val oneOf = if (values.isEmpty) builder else {
      builder.checkValue(values.contains, s"it must be one of ${values.mkString(", ")}")
    }
    val filled = if (!nonEmpty) oneOf else {
      oneOf.checkValue(_.trim.nonEmpty, "it must not be empty")
    }
    pattern.foldLeft(filled) { (b, p) =>
      b.checkValue(v => ("(?s)" + p).r.matches(v), s"it must match $p")
    }
  }

  private def plain(d: Double): String = if (d == d.toLong) d.toLong.toString else d.toString

  private def resource(name: String): JValue = {
    val stream = getClass.getClassLoader.getResourceAsStream(name)
    require(stream != null, s"$name is missing from the spark-helium jar")
    val source = Source.fromInputStream(stream, "UTF-8")
    try JsonMethods.parse(source.mkString) finally source.close()
  }
}
