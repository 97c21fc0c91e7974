package org.apache.spark.sql.helium

import org.apache.spark.sql.internal.SQLConf

/**
 * The models that `spark.helium.models.<name>.<option>` declares. An option is one of
 * [[HeliumConf.modelOptions]], or any setting of the model's engine; `conf.py` reads them the same
 * way and applies them.
 */
object DeclaredModels {

  val prefix = "spark.helium.models."

  private val Key = """spark\.helium\.models\.([A-Za-z0-9][A-Za-z0-9._-]*)\.([A-Za-z]+)""".r

  /** Names that a call of the session, whose settings these are, may use. Checks the declarations, as `SET` cannot. */
  def names(conf: SQLConf): Set[String] =
    check(texts(conf), HeliumConf.text(conf, "spark.helium.engine"))

  /** The engine that answers calls of a model. */
  def engineOf(conf: SQLConf, model: String): String =
    texts(conf).get(s"$prefix$model.engine").filter(_.nonEmpty).getOrElse(HeliumConf.text(conf, "spark.helium.engine"))

  /** The declarations as the session has them now. */
  def texts(conf: SQLConf): Map[String, String] =
    conf.getAllConfs.filter { case (key, _) => key.startsWith(prefix) }

  /**
   * Names of the models among `settings`.
   *
   * @param engine the engine of a model that names none
   * @throws HELIUM_SETTING_UNKNOWN, HELIUM_SETTING_INVALID where a key or a value is none that a model can have
   */
  def check(settings: Map[String, String], engine: String): Set[String] = {
    val options = settings.toSeq.map {
      case (key @ Key(name, option), value) => (name, option, key, value)
      case (key, _) => throw HeliumErrors.settingUnknown(key, HeliumConf.modelOptions.map(prefix + "<name>." + _))
    }
    options.groupBy(_._1).foreach { case (_, ofModel) =>
      ofModel.foreach { case (_, option, key, value) =>
        if (HeliumConf.modelOptions.contains(option)) HeliumConf.checkModelOption(option, key, value)
      }
      // Where the model names no engine, an option of any may rest until that engine is chosen.
      val own = ofModel.collectFirst { case (_, "engine", _, value) if value.nonEmpty => value }
      val possible = own.fold(engine +: HeliumConf.engines)(Seq(_))
      ofModel.filterNot(o => HeliumConf.modelOptions.contains(o._2)).foreach { case (name, option, key, value) =>
        possible.map(e => s"spark.helium.$e.$option").find(HeliumConf.keys.contains) match {
          case Some(setting) => HeliumConf.check(setting, key, value)
          case None =>
            val known = possible.flatMap(HeliumConf.optionsOf) ++ HeliumConf.modelOptions
            throw HeliumErrors.settingUnknown(key, known.distinct.map(o => s"$prefix$name.$o"))
        }
      }
    }
    options.map(_._1).toSet
  }
}
