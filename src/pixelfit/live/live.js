"use strict";
// Follows a run: asks for its state once a second. Whatever comes from the data goes in as text.
(() => {
  const EVERY_MS = 1000;
  const PATIENCE = 3; // failed requests in a row until the command counts as ended
  const at = (id) => document.getElementById(id);
  const drawn = {};
  let last = null;
  let misses = 0;
  let ended = false;
  let pressed = false;

  function put(id, text) {
    if (at(id).textContent !== text) at(id).textContent = text;
  }

  function make(tag, text, name) {
    const element = document.createElement(tag);
    if (text !== undefined) element.textContent = text;
    if (name) element.className = name;
    return element;
  }

  // Fills a list or a table anew, but only when its content is new: what is selected or scrolled stays.
  function fill(id, items, build) {
    const content = JSON.stringify(items);
    if (drawn[id] === content) return;
    drawn[id] = content;
    at(id).replaceChildren(...items.map(build));
  }

  function bar(id, share) {
    at(id).hidden = share === null;
    at(id).value = share ?? 0;
  }

  function statusOf(state) {
    const trials = state.counts.ended === 1 ? "1 trial" : `${state.counts.ended.toLocaleString("en")} trials`;
    switch (state.phase) {
      case "data": return "Reading and inspecting the data. The search can be stopped once it has begun.";
      case "search": return "Searching.";
      case "stopping": return "Stopping: the trial under way ends, then the best model is scored and the report written.";
      case "failed": return `The run ended without a result. ${state.error}`;
      default:
        return `The run is finished after ${state.result.took} and ${trials}` +
          `${state.result.interrupted ? ", ended early" : ""}; the report is ${state.result.report}.`;
    }
  }

  function showNow(state) {
    const over = state.phase === "finished" || state.phase === "failed";
    put("status", statusOf(state));
    at("stop").disabled = pressed || !state.stoppable;
    put("stop", state.phase === "stopping" ? "Stopping" : "Stop the search");
    at("stop").parentElement.hidden = over;
    const time = state.clock;
    const counts = time.left !== null && !over;
    put("left-title", counts ? "Time left" : "Time");
    put("left", counts ? time.left : time.elapsed);
    put("left-note", time.budget === null ? "no time limit" : counts ? `${time.elapsed} of ${time.budget} gone` : `of ${time.budget}`);
    bar("share", time.share);
    document.title = `${over ? "ended" : counts ? `${time.left} left` : time.elapsed} – pixelfit live`;
    if (state.best) {
      put("best", state.best.value);
      put("best-note", [`${state.best.metric} on validation data`, ...state.best.others, state.best.name].join(" · "));
    }
    if (state.trial) {
      put("trial", state.trial.name);
      put("detail", state.trial.detail);
    } else {
      const idle = state.counts.ended ? "choosing what comes next" : "";
      put("trial", state.counting ? state.counting.title : state.counts.ended ? "Between trials" : "Data");
      put("detail", state.counting ? `${Math.round(100 * state.counting.share)} %` : idle);
    }
    at("trial-title").parentElement.hidden = over;
    put("best-title", over ? "Best trial" : "Best so far");
    bar("fraction", state.trial ? state.trial.fraction : state.counting ? state.counting.share : 0);
  }

  function showLists(state) {
    const failed = state.counts.failed ? `, ${state.counts.failed.toLocaleString("en")} failed` : "";
    put("counts", `${state.counts.ended.toLocaleString("en")} ended${failed}`);
    put("metric", state.metric ?? "score");
    at("trials-section").hidden = !state.trials.length;
    at("messages-section").hidden = !state.messages.length;
    fill("trials", state.trials, (trial) => {
      const row = make("tr", undefined, trial.best ? "chosen" : "");
      const purpose = make("td", trial.purpose, "words");
      if (trial.error) purpose.append(make("br"), make("span", trial.error, "failed"));
      row.append(make("th", trial.name), purpose, make("td", trial.score ?? "–", "n"), make("td", trial.took, "n"));
      return row;
    });
    fill("messages", state.messages, (message) => {
      const line = make("li");
      line.append(make("time", message.at), make("span", message.text));
      return line;
    });
  }

  function showResult(state) {
    if (!state.result) return;
    put("result-pictures", state.result.pictures);
    fill("result-rows", state.result.rows, ([metric, value, interval, baseline]) => {
      const row = make("tr");
      const figure = make("td", undefined, "n");
      figure.append(make("b", value), make("br"), make("span", interval, "dim"));
      row.append(make("th", metric), figure, make("td", baseline, "n"));
      return row;
    });
    at("result").hidden = false;
  }

  function legend(id, entries) {
    fill(id, entries, ({ name, colour }) => {
      const item = make("li");
      const spot = make("i");
      spot.style.background = colour;
      item.append(spot, make("span", name));
      return item;
    });
  }

  function model(name) {
    for (const each of window.Bokeh?.documents ?? []) {
      const found = each.get_model_by_name(name);
      if (found) return found;
    }
    return null;
  }

  // New data for a source, if they are new; false while the charts are not drawn yet.
  function pour(name, data) {
    const source = model(name);
    if (!source) return false;
    const content = JSON.stringify(data);
    if (drawn[name] !== content) {
      drawn[name] = content;
      source.data = data;
    }
    return true;
  }

  function frame(name, x, y, ranges) {
    const plot = model(name);
    if (!plot || !ranges) return;
    const content = JSON.stringify(ranges);
    if (drawn[name] !== content) {
      drawn[name] = content;
      plot.x_range.setv({ start: ranges.x[0], end: ranges.x[1] });
      plot.y_range.setv({ start: ranges.y[0], end: ranges.y[1] });
    }
    if (plot.below[0].axis_label !== x) plot.below[0].axis_label = x;
    if (plot.left[0].axis_label !== y) plot.left[0].axis_label = y;
  }

  function showCharts(state) {
    const charts = state.charts;
    if (!charts) return;
    at("curves").hidden = charts.curves.ranges === null;
    at("charts").hidden = false;
    frame("history", charts.time, charts.score, charts.ranges);
    frame("curves", "epochs", charts.curves.title, charts.curves.ranges);
    pour("best", charts.best);
    pour("dots", charts.dots);
    const lines = charts.curves.lines;
    lines.forEach(({ name, x, y }, place) => pour(`curve-${place}`, { x, y, trial: x.map(() => name) }));
    legend("families", charts.families);
    legend("lines", lines.map(({ name, colour }) => ({ name, colour })).filter(({ name }) => name));
  }

  function end() {
    if (ended) return;
    ended = true;
    at("stop").disabled = true;
    at("stop").parentElement.hidden = true;
    at("report").parentElement.hidden = true; // its server has gone
    if (last?.phase === "finished") put("status", `The run is finished; the report is ${last.result.report}.`);
    else if (last?.phase !== "failed") put("status", "The command has ended. The terminal tells what it came to, and where.");
    document.title = "ended – pixelfit live";
  }

  async function follow() {
    while (!ended) {
      try {
        const answer = await fetch("state.json", { cache: "no-store" });
        if (!answer.ok) throw new Error(answer.statusText);
        last = await answer.json();
        misses = 0;
      } catch {
        misses += 1;
        if (misses >= PATIENCE) end();
        else if (!ended) put("status", "No answer from the command; asking again.");
      }
      if (!misses && !ended) {
        showNow(last);
        showLists(last);
        showResult(last);
        showCharts(last);
        // Charts may be drawn after the last answer; nothing else is to come, and nothing more is asked.
        if (["finished", "failed"].includes(last.phase) && model("dots")) return;
      }
      await new Promise((done) => setTimeout(done, EVERY_MS));
    }
  }

  // This answer lasts as long as the server does, so that its end is no request that fails.
  async function waitForTheEnd() {
    try {
      const answer = await fetch("until-end", { cache: "no-store" });
      if (answer.status !== 200) return;
      await answer.text();
      end();
    } catch {
      // The other requests will tell.
    }
  }

  at("stop").addEventListener("click", async () => {
    pressed = true;
    at("stop").disabled = true;
    put("stop", "Stopping");
    try {
      await fetch("stop", { method: "POST" });
    } catch {
      // The command has ended meanwhile, which the other requests will tell.
    }
  });

  follow();
  waitForTheEnd();
})();
