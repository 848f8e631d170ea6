"use strict";
// Sends pictures to the server and shows what it says of them. Whatever comes from the data goes in as text.
(() => {
  const BARS = 10; // classes shown
  const DRAWN = 280; // pixels of the longer side of a drawing as it is sent
  const SHARP = 2; // pixels of the board for one that is sent: its strokes are sharp on any screen, and smooth when made smaller
  const PAUSE_MS = 300; // after a stroke, until it is predicted: a 4 or an i has two
  const SMALL = 128; // pixels: pictures up to this size are enlarged as squares
  const TOKEN = "pixelfit-token";
  const AGAIN = [0, 429, 503]; // statuses with which the same request may succeed later; 0 is no answer at all
  const SVG = "http://www.w3.org/2000/svg";
  const at = (id) => document.getElementById(id);
  const working = new Set(); // signals of the requests under way
  let about = null;
  let token = null;
  let sending = new AbortController(); // of the pictures sent last
  let explaining = new AbortController(); // of the picture selected last
  let again = null; // what failed last
  let urls = [];

  class Refusal extends Error {
    constructor(sentence, status) {
      super(sentence);
      this.status = status;
    }
  }

  function make(tag, { text, name, ...attributes } = {}, ...children) {
    const element = document.createElement(tag);
    if (text !== undefined) element.textContent = text;
    if (name) element.className = name;
    for (const [attribute, value] of Object.entries(attributes)) element.setAttribute(attribute, value);
    element.append(...children);
    return element;
  }

  function shape(tag, attributes, text) {
    const element = document.createElementNS(SVG, tag);
    for (const [attribute, value] of Object.entries(attributes)) element.setAttribute(attribute, value);
    if (text !== undefined) element.textContent = text;
    return element;
  }

  // ---- words ----

  const many = (count, thing) => `${count.toLocaleString("en")} ${thing}${count === 1 ? "" : "s"}`;

  // A number in few characters; where an interval is known, with the digits that it leaves a meaning.
  function inWords(value, width) {
    const size = Math.abs(value);
    if (size >= 1e15 || (size > 0 && size < 1e-6)) return value.toExponential(2);
    const format = width > 0 ? { maximumFractionDigits: Math.min(20, Math.max(0, 1 - Math.floor(Math.log10(width)))) }
      : size >= 1e4 ? { maximumFractionDigits: 0 } : { maximumSignificantDigits: 4 };
    return value.toLocaleString("en", format).replace(/^-0$/, "0");
  }

  function inPercent(share) {
    if (share > 0 && share < 0.001) return "<0.1 %";
    if (share < 1 && share > 0.999) return ">99.9 %";
    const percent = 100 * share;
    return `${percent.toLocaleString("en", { maximumFractionDigits: percent < 10 || percent > 99 ? 1 : 0 })} %`;
  }

  function sureOf(what) {
    if (about.coverage === null) return what;
    return `${(100 * about.coverage).toLocaleString("en", { maximumSignificantDigits: 4 })} % ${what}`;
  }

  function listed(names) {
    const more = names.length - BARS;
    return names.slice(0, BARS).join(", ") + (more > 0 ? ` and ${more.toLocaleString("en")} more` : "");
  }

  function inShort(item) {
    switch (about.kind) {
      case "number": return inWords(item.prediction, item.high - item.low);
      case "numbers": return listed(namesOf(item).map((name) => `${name} ${inWords(item.prediction[name], widthOf(item, name))}`));
      case "label": return String(item.prediction);
      default: return item.prediction.length ? listed(item.prediction) : "no label";
    }
  }

  const namesOf = (item) => about.target_names.length ? about.target_names : Object.keys(item.prediction);
  const widthOf = (item, name) => item.low ? item.high[name] - item.low[name] : undefined;

  // ---- the server ----

  async function ask(path, options) {
    const headers = { ...options.headers };
    if (token) headers.Authorization = `Bearer ${token}`;
    let answer;
    let content = null;
    try {
      answer = await fetch(path, { cache: "no-store", ...options, headers });
      content = await answer.json();
    } catch (error) {
      if (options.signal.aborted) throw error;
      if (!answer) throw new Refusal("The server cannot be reached.", 0);
      // What is no JSON comes from something between the page and the server.
    }
    if (answer.status === 401) {
      const sentence = token ? "The server does not accept this access token. Please enter it again."
        : "This server asks for an access token. Please enter it.";
      askForToken();
      throw new Refusal(sentence, 401);
    }
    if (!answer.ok || content === null) {
      throw new Refusal(content?.detail ?? `The server answered with status ${answer.status} and nothing that can be shown.`, answer.status);
    }
    return content;
  }

  function askForToken() {
    token = null;
    sessionStorage.removeItem(TOKEN);
    at("token-form").hidden = false;
    at("token").value = "";
    at("token").focus();
  }

  function complain(sentence, status) {
    at("alert").textContent = AGAIN.includes(status) ? `${sentence} Trying again may help.` : sentence;
    at("again").hidden = !AGAIN.includes(status);
  }

  function quiet() {
    at("alert").textContent = "";
    at("again").hidden = true;
  }

  // Does some work and tells what goes wrong; work that something newer has replaced ends without a word.
  async function attempt(work, signal, retry, clear) {
    quiet();
    working.add(signal);
    at("result").setAttribute("aria-busy", "true");
    try {
      await work();
      again = null;
    } catch (error) {
      if (signal.aborted) return;
      again = retry;
      clear();
      if (!(error instanceof Refusal)) {
        complain("The page cannot show what the server answered.");
        throw error;
      }
      complain(error.message, error.status);
    } finally {
      working.delete(signal);
      at("result").setAttribute("aria-busy", String(working.size > 0));
    }
  }

  // Ends what is under way, since something newer comes.
  function supersede() {
    explaining.abort();
    sending.abort();
    sending = new AbortController();
    return sending.signal;
  }

  function tooLarge({ name, size }) {
    if (size <= about.limits.max_bytes) return null;
    const [has, most] = [size, about.limits.max_bytes].map((bytes) => (bytes / 2 ** 20).toLocaleString("en", { maximumFractionDigits: 2 }));
    return `${name} is too large: it has ${has} MiB, and the server takes at most ${most} MiB a picture.`;
  }

  function predict(files) {
    if (!files.length) return;
    if (!about) return complain("The server has not said yet what it predicts.", 0);
    const signal = supersede();
    const rows = files.map((file) => ({ file, item: null, error: tooLarge(file) }));
    attempt(async () => {
      const alone = rows.length === 1;
      if (!alone) showList(rows);
      const sent = rows.filter((row) => !row.error);
      for (let first = 0; first < sent.length; first += about.limits.max_files) {
        const part = sent.slice(first, first + about.limits.max_files);
        const form = new FormData();
        for (const { file } of part) form.append("files", file, file.name);
        const answer = await ask("predict", { method: "POST", body: form, signal });
        if (answer.model !== about.version) await introduce(signal); // another model has taken the place of the one before
        part.forEach((row, place) => {
          const item = answer.predictions[place];
          Object.assign(row, item.error ? { error: item.error } : { item, answer });
          if (!alone) fillRow(row);
        });
        if (!alone) showProgress(rows);
      }
      if (alone && rows[0].error) throw new Refusal(rows[0].error);
      if (alone) own(rows);
      const first = rows.find((row) => row.item);
      if (first && !rows.some((row) => row.chosen)) select(first);
    }, signal, () => predict(files), () => {
      if (!rows.some((row) => row.item)) return clear();
      for (const row of rows.filter((each) => !each.item && !each.error)) {
        row.error = "It was not predicted.";
        fillRow(row);
      }
    });
  }

  function select(row) {
    explaining.abort();
    explaining = new AbortController();
    const { signal } = explaining;
    for (const other of row.rows) {
      other.chosen = other === row;
      other.entry?.setAttribute("aria-pressed", String(other.chosen));
    }
    showItem(row);
    if (!about.explains) return quiet();
    attempt(async () => {
      const headers = { "Content-Type": row.file.type || "application/octet-stream" };
      row.explanation ??= await ask("explain", { method: "POST", body: row.file, headers, signal });
      const bitmap = await createImageBitmap(row.file).catch(() => null); // the browser may not know this kind of picture
      if (!signal.aborted) showDetails(row, bitmap);
    }, signal, () => select(row), () => at("details").replaceChildren());
  }

  async function introduce(signal) {
    const answer = await ask("about", { signal });
    about = { ...answer.model, limits: answer.limits, explains: answer.explains };
    const { kind, target_name, target_names, run, version, pictures } = about;
    const what = kind === "numbers" ? listed(target_names) : target_name || "labels";
    at("title").textContent = `Predict ${what}`;
    document.title = `Predict ${what} – pixelfit`;
    const colours = { 1: ", grey", 3: ", colour" }[pictures.channels] ?? "";
    at("facts").textContent = `run ${run} · model ${version} · reads ${pictures.width} × ${pictures.height} pixels${colours}`;
    if (answer.token_required) token = sessionStorage.getItem(TOKEN);
    at("token-form").hidden = !answer.token_required || token !== null;
  }

  // ---- results ----

  // Takes over the pictures' addresses, and gives those of the pictures before back.
  function own(rows) {
    urls.forEach((url) => URL.revokeObjectURL(url));
    urls = rows.map((row) => Object.assign(row, { rows, url: URL.createObjectURL(row.file) }).url);
  }

  function clear() {
    own([]);
    for (const id of ["progress", "list", "shown", "details", "fine-print"]) at(id).replaceChildren();
    at("list").hidden = true;
    at("empty").hidden = false;
  }

  function picture(source, alt) {
    const image = make("img", { alt, decoding: "async" });
    image.addEventListener("load", () => image.classList.toggle("pixels", Math.max(image.naturalWidth, image.naturalHeight) <= SMALL));
    image.addEventListener("error", () => image.replaceWith(make("span", { name: "blank dim small", text: alt && "This browser cannot show this kind of picture." })));
    image.src = source;
    return image;
  }

  function showList(rows) {
    clear();
    own(rows);
    at("empty").hidden = true;
    at("list").hidden = false;
    at("list").replaceChildren(...rows.map((row) => {
      row.line = make("li");
      fillRow(row);
      return row.line;
    }));
    showProgress(rows);
  }

  function fillRow(row) {
    row.entry = row.item ? make("button", { type: "button", "aria-pressed": "false" }) : make("div");
    row.entry.classList.add("entry");
    row.entry.append(picture(row.url, ""), make("span", { text: row.file.name }));
    if (row.error) row.entry.append(make("span", { name: "wrong", text: row.error }));
    if (row.item) {
      const says = make("b", { text: inShort(row.item) });
      if (row.item.unlike) says.append(make("span", { name: "odd", text: "unlike the training pictures" }));
      row.entry.append(says);
      row.entry.addEventListener("click", () => select(row));
    }
    row.line.replaceChildren(row.entry);
  }

  function showProgress(rows) {
    const done = rows.filter((row) => row.item).length;
    const failed = rows.filter((row) => row.error).length;
    const over = done + failed === rows.length;
    at("progress").textContent = `${over ? many(done, "picture") : `${done.toLocaleString("en")} of ${many(rows.length, "picture")}`} predicted` +
      (failed ? `, ${failed.toLocaleString("en")} refused.` : ".");
  }

  function showItem(row) {
    const { item, answer, file, url, rows } = row;
    const says = make("div", { name: "says" }, make("p", { name: "dim small", text: file.name }));
    const box = make("div", { name: "answer" }, make("div", { name: "picture" }, picture(url, `Your picture ${file.name}`)), says);
    if (item.unlike) box.prepend(make("p", { name: "note", text: "Unlike anything seen in training: do not rely on this prediction." }));
    const parts = { number: numberParts, numbers: numbersParts, label: labelParts, labels: labelsParts }[about.kind](item);
    says.append(...parts.beside);
    box.append(...parts.below);
    at("empty").hidden = true;
    if (rows.length === 1) {
      at("list").hidden = true;
      at("list").replaceChildren();
      at("progress").textContent = "";
    }
    at("shown").replaceChildren(box);
    at("details").replaceChildren(...(about.explains ? [make("p", { name: "dim waiting", text: "Looking at what mattered." })] : []));
    const count = answer.predictions.length;
    at("fine-print").textContent = `${count === 1 ? "Predicted" : `${many(count, "picture")} predicted`} in ${inWords(answer.milliseconds)} ms · model ${answer.model}`;
  }

  function numberParts(item) {
    const width = item.high - item.low;
    const beside = [make("p", { name: "figure", text: inWords(item.prediction, width) })];
    if (item.low !== undefined) {
      beside.push(make("p", { name: "sure", text: `${sureOf("interval")} ${inWords(item.low, width)} to ${inWords(item.high, width)}` }));
      beside.push(scale(item, width));
    }
    return { beside, below: [] };
  }

  // The value and its interval on the range of the training targets, or where that is not known on their own.
  function scale({ prediction, low, high }, width) {
    const [least, most] = about.range ?? [low - width / 2, high + width / 2];
    const [from, to] = [Math.min(least, low, prediction), Math.max(most, high, prediction)];
    const place = (value) => (to > from ? (100 * (value - from)) / (to - from) : 50);
    const [first, last] = [inWords(from, to - from), inWords(to, to - from)];
    const label = `${inWords(prediction, width)} and its interval on a scale from ${first} to ${last}`;
    const drawing = shape("svg", { class: "scale", role: "img", "aria-label": label });
    const length = Math.max(1, place(high) - place(low));
    drawing.append(
      shape("rect", { class: "track", x: 0, y: 10, width: "100%", height: 4, rx: 2 }),
      shape("rect", { class: "span", x: `${Math.min(place(low), 100 - length)}%`, y: 6, width: `${length}%`, height: 12, rx: 3 }),
      shape("circle", { class: "value", cx: `${place(prediction)}%`, cy: 12, r: 7 }),
      shape("text", { x: 0, y: 40 }, first),
      shape("text", { x: "100%", y: 40, "text-anchor": "end" }, last),
    );
    return drawing;
  }

  function numbersParts(item) {
    const columns = ["target", "prediction", ...(item.low ? [sureOf("interval")] : [])];
    const head = make("tr", {}, ...columns.map((text, place) => make("th", { text, scope: "col", name: place ? "n" : "" })));
    const rows = namesOf(item).map((name) => {
      const width = widthOf(item, name);
      const row = make("tr", {}, make("th", { text: name, scope: "row" }));
      row.append(make("td", { name: "n" }, make("b", { text: inWords(item.prediction[name], width) })));
      if (item.low) row.append(make("td", { name: "n", text: `${inWords(item.low[name], width)} to ${inWords(item.high[name], width)}` }));
      return row;
    });
    const table = make("table", {}, make("thead", {}, head), make("tbody", {}, ...rows));
    return { beside: [table], below: [] };
  }

  function labelParts(item) {
    const beside = [make("p", { name: "figure words", text: String(item.prediction) })];
    if (item.set) beside.push(make("p", { name: "sure", text: `${sureOf("prediction set")}: ${listed(item.set)}` }));
    return { beside, below: [bars(item.probabilities, [item.prediction], "Classes and their probabilities")] };
  }

  function labelsParts(item) {
    const text = item.prediction.length ? listed(item.prediction) : "No label";
    return {
      beside: [make("p", { name: "figure words", text })],
      below: [bars(item.probabilities, item.prediction, "Labels and the probability of each", "predicted")],
    };
  }

  // Each class's probability; the mark is what tells a chosen one to those who do not see its colour.
  function bars(probabilities, chosen, label, mark) {
    const shown = Math.max(BARS, chosen.length);
    const lines = probabilities.slice(0, shown).map(([name, share]) => {
      const isChosen = chosen.includes(name);
      const filling = make("i");
      filling.style.width = `${100 * share}%`;
      const title = make("span", { name: "name", text: String(name) });
      if (isChosen && mark) title.append(make("span", { name: "mark", text: ` ✓ ${mark}` }));
      return make("li", { name: isChosen ? "chosen" : "" }, title, make("span", { name: "bar", "aria-hidden": "true" }, filling),
        make("span", { name: "share", text: inPercent(share) }));
    });
    const more = probabilities.length - shown;
    if (more > 0) lines.push(make("li", { name: "more", text: `and ${more.toLocaleString("en")} more` }));
    return make("ol", { name: "bars", "aria-label": label }, ...lines);
  }

  function showDetails({ file, explanation }, bitmap) {
    const parts = [];
    if (explanation.looked_at) parts.push(heatMap(explanation, bitmap));
    if (explanation.nearest.length) {
      const gallery = explanation.nearest.map(({ name, target, picture: source }) =>
        make("li", {}, picture(source, `Training picture ${name}, target ${target}`), make("span", { text: String(target) })));
      parts.push(make("section", { name: "near", "aria-label": "Nearest training pictures" }, make("h3", { text: "Nearest training pictures" }),
        make("ul", { name: "gallery" }, ...gallery), make("p", { name: "dim small", text: "Below each is its true target." })));
    }
    bitmap?.close();
    at("details").replaceChildren(...parts);
    at("fine-print").textContent = at("fine-print").textContent.replace(" · ", `, explained in ${inWords(explanation.milliseconds)} ms · `);
  }

  function heatMap({ looked_at: { rows, columns, values }, of }, bitmap) {
    const small = make("canvas", { width: columns, height: rows });
    const cells = small.getContext("2d").createImageData(columns, rows);
    values.forEach((value, place) => cells.data.set([...(value > 0 ? [213, 94, 0] : [0, 114, 178]), Math.round(215 * Math.min(1, Math.abs(value)))], 4 * place));
    small.getContext("2d").putImageData(cells, 0, 0);

    const [wide, high] = bitmap ? [bitmap.width, bitmap.height] : [columns, rows];
    const enlarged = 560 / Math.max(wide, high);
    const words = whereItLooked(rows, columns, values);
    const canvas = make("canvas", { width: Math.max(1, Math.round(wide * enlarged)), height: Math.max(1, Math.round(high * enlarged)), role: "img", "aria-label": `Heat map over your picture. ${words}` });
    const paint = canvas.getContext("2d");
    paint.fillStyle = "#808080";
    paint.fillRect(0, 0, canvas.width, canvas.height);
    if (bitmap) {
      paint.imageSmoothingEnabled = Math.max(wide, high) > SMALL;
      paint.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
      paint.globalCompositeOperation = "saturation"; // the picture without its colours, so that those of the map stand out
      paint.fillRect(0, 0, canvas.width, canvas.height);
      paint.globalCompositeOperation = "source-over";
    }
    Object.assign(paint, { imageSmoothingEnabled: true, imageSmoothingQuality: "high" });
    paint.drawImage(small, 0, 0, canvas.width, canvas.height);

    const key = ["raised", "lowered"].map((name) => make("li", {}, make("i", { name }), make("span", { text: `${name} the prediction` })));
    return make("figure", { name: "heat" }, make("h3", { text: `What the model looked at${of === "" ? "" : ` for ${of}`}` }),
      canvas, make("ul", { name: "legend" }, ...key), make("figcaption", { text: words }));
  }

  function whereItLooked(rows, columns, values) {
    const names = [["top left", "top", "top right"], ["left", "centre", "right"], ["bottom left", "bottom", "bottom right"]];
    const third = (place, count) => Math.min(2, Math.floor((3 * (place + 0.5)) / count));
    const where = (value) => {
      const place = values.indexOf(value);
      return names[third(Math.floor(place / columns), rows)][third(place % columns, columns)];
    };
    const [least, most] = [Math.min(...values), Math.max(...values)];
    const said = [];
    if (most > 0) said.push(`raised most at the ${where(most)}`);
    if (least < 0) said.push(`lowered most at the ${where(least)}`);
    return said.length ? `The prediction was ${said.join(", ")}.` : "No part of the picture changed the prediction.";
  }

  // ---- drawing ----

  const board = at("board");
  const pen = board.getContext("2d");
  let stroke = null; // the pointer that draws, and where it was last
  let empty = true;
  let pause = 0;

  function setUpBoard({ width, height }) {
    const enlarged = DRAWN / Math.max(width, height);
    board.width = SHARP * Math.round(width * enlarged);
    board.height = SHARP * Math.round(height * enlarged);
    wipe();
  }

  function wipe() {
    empty = true;
    const [ink, ground] = at("dark-ink").checked ? ["#000000", "#ffffff"] : ["#ffffff", "#000000"];
    pen.fillStyle = ground;
    pen.fillRect(0, 0, board.width, board.height);
    Object.assign(pen, { strokeStyle: ink, lineWidth: Math.min(board.width, board.height) / 12, lineCap: "round", lineJoin: "round" });
  }

  function drawTo({ clientX, clientY }) {
    const box = board.getBoundingClientRect();
    const point = [((clientX - box.left) * board.width) / box.width, ((clientY - box.top) * board.height) / box.height];
    pen.beginPath();
    pen.moveTo(...(stroke.last ?? point));
    pen.lineTo(...point); // to where it already is, this is a dot
    pen.stroke();
    stroke.last = point;
    empty = false;
  }

  board.addEventListener("pointerdown", (event) => {
    if (stroke || event.button !== 0) return;
    clearTimeout(pause);
    board.setPointerCapture(event.pointerId);
    stroke = { pointer: event.pointerId, last: null };
    drawTo(event);
  });
  board.addEventListener("pointermove", (event) => {
    if (stroke?.pointer !== event.pointerId) return;
    const between = event.getCoalescedEvents();
    for (const each of between.length ? between : [event]) drawTo(each);
  });
  for (const end of ["pointerup", "pointercancel"]) {
    board.addEventListener(end, (event) => {
      if (stroke?.pointer !== event.pointerId) return;
      stroke = null;
      pause = setTimeout(predictDrawing, PAUSE_MS);
    });
  }

  async function predictDrawing() {
    clearTimeout(pause);
    if (empty) return complain("Nothing is drawn yet.");
    const signal = supersede();
    const sent = make("canvas", { width: board.width / SHARP, height: board.height / SHARP });
    const paint = sent.getContext("2d");
    paint.imageSmoothingQuality = "high";
    paint.drawImage(board, 0, 0, sent.width, sent.height);
    const blob = await new Promise((done) => sent.toBlob(done, "image/png"));
    if (!signal.aborted) predict([new File([blob], "drawing.png", { type: "image/png" })]);
  }

  at("predict").addEventListener("click", predictDrawing);
  at("clear").addEventListener("click", () => {
    clearTimeout(pause);
    supersede();
    wipe();
    quiet();
    clear();
  });
  at("dark-ink").addEventListener("change", () => {
    const drawn = make("canvas", { width: board.width, height: board.height });
    drawn.getContext("2d").drawImage(board, 0, 0);
    const wasEmpty = empty;
    wipe();
    if (wasEmpty) return;
    pen.fillStyle = "#ffffff";
    pen.fillRect(0, 0, board.width, board.height);
    pen.globalCompositeOperation = "difference"; // white less what was drawn
    pen.drawImage(drawn, 0, 0);
    pen.globalCompositeOperation = "source-over";
    empty = false;
    predictDrawing();
  });

  // ---- the camera ----

  const video = at("video");
  const chosenWay = () => document.querySelector("input[name=way]:checked").value;

  async function startCamera() {
    at("camera-note").textContent = "Waiting for the camera.";
    try {
      const stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
      video.srcObject = stream;
      if (chosenWay() !== "camera") return stopCamera(); // left while the browser was asking
      await video.play();
      at("camera-note").textContent = "";
      at("shoot").disabled = false;
    } catch {
      stopCamera();
      // Without mediaDevices the page came over plain http from another machine.
      at("camera-note").textContent = navigator.mediaDevices ? "There is no camera that this page may use."
        : "Browsers let a page use the camera only over https, or from this machine itself.";
    }
  }

  function stopCamera() {
    video.srcObject?.getTracks().forEach((track) => track.stop());
    video.srcObject = null;
    at("shoot").disabled = true;
  }

  at("shoot").addEventListener("click", () => {
    const photo = make("canvas", { width: video.videoWidth, height: video.videoHeight });
    photo.getContext("2d").drawImage(video, 0, 0);
    photo.toBlob((blob) => predict([new File([blob], "photo.jpg", { type: "image/jpeg" })]), "image/jpeg", 0.92);
  });

  // ---- the rest of the input ----

  function showWay() {
    for (const way of ["file", "draw", "camera"]) at(`way-${way}`).hidden = way !== chosenWay();
    if (chosenWay() === "camera") startCamera();
    else stopCamera();
  }

  for (const way of document.querySelectorAll("input[name=way]")) way.addEventListener("change", showWay);
  at("files").addEventListener("change", () => {
    predict([...at("files").files]);
    at("files").value = ""; // the same file can be chosen again
  });
  document.addEventListener("paste", (event) => predict([...event.clipboardData.files]));
  document.addEventListener("dragover", (event) => {
    if (!event.dataTransfer.types.includes("Files")) return;
    event.preventDefault();
    document.body.classList.add("over");
  });
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) document.body.classList.remove("over"); // out of the window
  });
  document.addEventListener("drop", (event) => {
    document.body.classList.remove("over");
    if (!event.dataTransfer.files.length) return;
    event.preventDefault();
    predict([...event.dataTransfer.files]);
  });
  at("again").addEventListener("click", () => again?.());
  at("token-form").addEventListener("submit", (event) => {
    event.preventDefault();
    token = at("token").value;
    sessionStorage.setItem(TOKEN, token);
    at("token-form").hidden = true;
    quiet();
    again?.();
  });

  function start() {
    attempt(async () => {
      await introduce(sending.signal);
      setUpBoard(about.pictures);
      // Who has a model of small grey pictures, such as digits, is likely to want to draw one.
      const drawn = about.pictures.channels === 1 && Math.max(about.pictures.width, about.pictures.height) <= 64;
      document.querySelector(`input[value=${drawn ? "draw" : "file"}]`).checked = true;
      showWay();
    }, sending.signal, start, () => {});
  }

  start();
})();
