package org.apache.spark.sql.helium

import java.util.concurrent.TimeUnit

import scala.io.Source

import org.json4s._
import org.json4s.jackson.JsonMethods

import org.apache.spark.SparkConf
import org.apache.spark.internal.config.{ConfigBuilder, ConfigEntry, TypedConfigBuilder}
import org.apache.spark.network.util.ByteUnit
import org.apache.spark.sql.classic.SparkSession
import org.apache.spark.sql.internal.SQLConf

/**
 * The settings `spark.helium.*`. Their registry is `spark-helium-settings.json`, which the Python
 * side reads too; here each becomes an entry of Spark's own configuration system, so that
 * `SET` and `spark.conf.set` check values.
 */
object HeliumConf {

  private case class Setting(
      key: String, tpe: String, default: String, doc: String, since: String, check: JValue)

  private val settings: Seq[Setting] = read("settings")

  /** Settings of a declared model that no engine has, by the last part of their keys. */
  private val patterns: Map[String, Setting] =
    read("patterns").map(s => s.key.split('.').last -> s).toMap

  private def read(part: String): Seq[Setting] = resource("spark-helium-settings.json") \ part match {
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

  private val entries: Map[String, ConfigEntry[_]] =
    settings.map(s => s.key -> entry(SQLConf.buildConf(s.key), s)).toMap

  private val patternEntries: Map[String, ConfigEntry[_]] =
    patterns.map { case (option, s) => option -> entry(ConfigBuilder(s.key), s) }

  /** What we keep in a session's settings for ourselves. */
  val internal = "spark.helium.internal."

  /** Names of the built-in models; any path or hub name is allowed beside them. */
  val builtInModels: Seq[String] =
    (resource("spark-helium-models.json") \ "models") match {
      case JArray(items) => items.map(_ \ "name").collect { case JString(name) => name }
      case _ => Nil
    }

  /** Makes the entries known to Spark, and checks what the session was configured with. */
  def validate(conf: SparkConf): Unit = {
    val all = conf.getAllWithPrefix("spark.helium.").map { case (k, v) => ("spark.helium." + k) -> v }.toMap
    val (models, others) = all.partition { case (key, _) => key.startsWith(DeclaredModels.prefix) }
    others.foreach { case (key, value) =>
      if (!entries.contains(key)) throw HeliumErrors.settingUnknown(key, keys)
      check(key, key, value)
    }
    val engine = all.getOrElse("spark.helium.engine", entries("spark.helium.engine").defaultValueString)
    val names = DeclaredModels.check(models, engine)
    all.get("spark.helium.model").filterNot(isModel(_, names, engine)).foreach { model =>
      throw HeliumErrors.settingInvalid("spark.helium.model", model,
        s"no such model is built in or declared (${(builtInModels ++ names).sorted.mkString(", ")}).",
        entries("spark.helium.model").doc)
    }
  }

  /**
   * Whether a call may name the model: a bare word is a declared or a built-in name, or one at the
   * endpoint; a path or a hub name has a slash in it.
   */
  def isModel(model: String, declared: Set[String], engine: String): Boolean =
    declared(model) || builtInModels.contains(model) || model.contains("/") || engine == "openai"

  /**
   * Checks a value of the registered setting `key`, which the user gave as `givenKey`.
   *
   * @throws HELIUM_SETTING_INVALID
   */
  private[helium] def check(key: String, givenKey: String, value: String): Unit =
    check(entries(key), settings.find(_.key == key).get, givenKey, value)

  private[helium] def checkModelOption(option: String, givenKey: String, value: String): Unit =
    check(patternEntries(option), patterns(option), givenKey, value)

  private def check(entry: ConfigEntry[_], setting: Setting, givenKey: String, value: String): Unit =
    try {
      entry.valueConverter(value)
    } catch {
      // Somebody may have put a secret there, and Spark's message repeats the value.
      case _: Exception if (setting.check \ "hidden") == JBool(true) =>
        throw HeliumErrors.settingInvalid(givenKey, "(a value that is not shown)", "it has not the right form.",
          entry.doc)
      case e: Exception =>
        val reason = Option(e.getMessage).getOrElse(e.getClass.getSimpleName).stripSuffix(".")
        throw HeliumErrors.settingInvalid(givenKey, value, reason + ".", entry.doc)
    }

  def keys: Seq[String] = settings.map(_.key)

  /** What a declared model has beside its engine's settings. */
  def modelOptions: Seq[String] = patterns.keys.toSeq

  /** The settings of an engine, by what follows its name in their keys. */
  def optionsOf(engine: String): Seq[String] =
    keys.filter(_.startsWith(s"spark.helium.$engine.")).map(_.stripPrefix(s"spark.helium.$engine."))

  val engines: Seq[String] = settings.find(_.key == "spark.helium.engine").map(_.check \ "values") match {
    case Some(JArray(items)) => items.collect { case JString(name) => name }
    case other => throw new IllegalStateException(s"the registry names no engines: $other")
  }

  /**
   * Text of every setting as the session has it now, for the Python side.
   *
   * @throws HELIUM_SETTING_UNKNOWN where a name of ours was set that is none, as `SET` takes any
   */
  def snapshot(conf: SQLConf): Map[String, String] = {
    conf.getAllConfs.keys
      .find(key => key.startsWith("spark.helium.") && !key.startsWith(DeclaredModels.prefix) &&
        !key.startsWith(internal) && !entries.contains(key))
      .foreach(key => throw HeliumErrors.settingUnknown(key, keys))
    settings.map(s => s.key -> text(conf, s.key)).toMap ++ DeclaredModels.texts(conf)
  }

  /**
   * The settings of the session, for what belongs to it and not to the text of a query. Spark analyses a persistent
   * view under the settings that were there when it was made, as far as they are registered: models are not.
   */
  def ofSession: SQLConf = SparkSession.getActiveSession.fold(SQLConf.get)(_.sessionState.conf)

  /** The settings that an application was started with. */
  def of(conf: SparkConf): SQLConf = {
    val out = new SQLConf
    conf.getAllWithPrefix("spark.helium.").foreach { case (key, value) => out.setConfString("spark.helium." + key, value) }
    out
  }

  def doc(key: String): String = entries(key).doc

  def text(conf: SQLConf, key: String): String =
    conf.getConfString(key, entries(key).defaultValueString)

  def boolean(conf: SQLConf, key: String): Boolean =
    entries(key).valueConverter(text(conf, key)).asInstanceOf[Boolean]

  def int(conf: SQLConf, key: String): Int =
    entries(key).valueConverter(text(conf, key)).asInstanceOf[Int]

  def long(conf: SQLConf, key: String): Long =
    entries(key).valueConverter(text(conf, key)).asInstanceOf[Long]

  def double(conf: SQLConf, key: String): Double =
    entries(key).valueConverter(text(conf, key)).asInstanceOf[Double]

  private def entry(blank: ConfigBuilder, s: Setting): ConfigEntry[_] = {
    val builder = blank.doc(s.doc).version(s.since)
    s.tpe match {
      case "boolean" => builder.booleanConf.createWithDefaultString(s.default)
      case "int" => bounded(builder.intConf, s)(_.toDouble).createWithDefaultString(s.default)
      case "long" => bounded(builder.longConf, s)(_.toDouble).createWithDefaultString(s.default)
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
