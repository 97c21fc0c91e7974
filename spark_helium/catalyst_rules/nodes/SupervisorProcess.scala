package org.apache.spark.sql.helium.nodes

import java.io.{BufferedReader, File, InputStreamReader, OutputStreamWriter}
import java.nio.charset.StandardCharsets.UTF_8
import java.util.concurrent.{CountDownLatch, TimeUnit}

import scala.util.control.NonFatal

import org.apache.spark.SparkFiles
import org.apache.spark.api.python.PythonUtils
import org.apache.spark.internal.Logging

/**
 * The Python child of an executor that starts the node's daemons and says how they are (`supervisor.py`). Its
 * standard input stays open as long as the executor lives: its end is what ends the child.
 *
 * @param python as Spark would run its workers, so that the child finds the daemons that they will look for
 * @param includes names of the application's Python archives
 * @param orders the line that the child gets; on standard input, where no other user sees it
 * @param interval milliseconds between two lines of the child
 * @param hear takes a line
 */
private[helium] class SupervisorProcess(
    python: String, includes: Seq[String], orders: String, interval: Long, hear: String => Unit)
  extends Logging {

  private val closed = new CountDownLatch(1)
  @volatile private var process: Option[Process] = None
  private var failedBefore = false // the thread's

  /** Returns at once. */
  def start(): Unit = {
    val thread = new Thread(() => run(), "helium supervisor")
    thread.setDaemon(true)
    thread.start()
  }

  /** Ends the child; the daemons end when no executor is left that uses them. */
  def close(): Unit = {
    closed.countDown()
    process.foreach { p =>
      try p.getOutputStream.close() catch { case NonFatal(_) => }
      if (!p.waitFor(SupervisorProcess.patience, TimeUnit.MILLISECONDS)) p.destroyForcibly()
    }
  }

  private def run(): Unit = {
    var again = true
    while (again) {
      val (heard, end) = try runOnce() catch {
        case NonFatal(e) => (false, s"cannot be run: ${e.getMessage}")
      }
      // One that never said a word would not the next time either.
      again = heard && closed.getCount > 0
      if (closed.getCount > 0) {
        val next = if (again) "it is started again" else "tasks with LLM calls start the node's daemon as they need it"
        val reason = s"the process that starts and watches the node's daemon, $python, $end; $next"
        logWarning(s"spark-helium: $reason. What it said is in this executor's stderr")
        deliver(NodeHealth.silent(reason))
        closed.await(interval, TimeUnit.MILLISECONDS)
      }
      again = again && closed.getCount > 0
    }
  }

  /** Runs the child to its end: whether it said anything, and how it ended. */
  private def runOnce(): (Boolean, String) = {
    val builder = new ProcessBuilder(python, "-m", "spark_helium.gpu_executor.supervisor")
    builder.redirectError(ProcessBuilder.Redirect.INHERIT)
    val environment = builder.environment
    val files = new File(SparkFiles.getRootDirectory()).getAbsolutePath
    val ofApplication = files +: includes.map(new File(files, _).getPath)
    // As Spark does it for its workers, and the files of the application, which workers add themselves.
    environment.put("PYTHONPATH", PythonUtils.mergePythonPaths(
      PythonUtils.sparkPythonPath +: Option(environment.get("PYTHONPATH")).toSeq :++ ofApplication: _*))
    val child = builder.start()
    process = Some(child)
    val input = new OutputStreamWriter(child.getOutputStream, UTF_8)
    try {
      input.write(orders)
      input.write('\n')
      input.flush()
    } catch {
      case NonFatal(_) => // it ended: its status says more
    }
    if (closed.getCount == 0) child.getOutputStream.close()
    val lines = new BufferedReader(new InputStreamReader(child.getInputStream, UTF_8))
    var heard = false
    Iterator.continually(lines.readLine()).takeWhile(_ != null).foreach { line =>
      heard = true
      deliver(line)
    }
    input.close()
    (heard, s"ended with status ${child.waitFor()}")
  }

  private def deliver(line: String): Unit =
    try hear(line) catch {
      // The driver may be busy, or gone: the next line says it anew.
      case NonFatal(e) if closed.getCount > 0 && !failedBefore =>
        failedBefore = true
        logWarning(s"spark-helium could not report the health of the node's daemon, and will not say so again: $e", e)
      case NonFatal(_) =>
    }
}

private object SupervisorProcess {
  val patience = 3000L
}
