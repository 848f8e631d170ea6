"use strict";
// Sends pictures to the server and shows what it says of them. Whatever comes from the data goes in as text.
(() => {
  const BARS = 10; // classes shown
  const DRAWN = 280; // pixels of the longer side of a drawing as it is sent
  const SHARP = 2; // pixels of the board for one that is sent: sharp on any screen, and smooth when made smaller
  const PAUSE_MS = 300; // after a stroke, until it is predicted
  const SMALL = 128; // pixels: pictures up to this size are enlarged as squares
  const TOKEN = "pixelfit-token";
  const PASSING = [0, 429, 503]; // statuses after which the same request may succeed; 0 is no answer at all
  const SVG = "http://www.w3.org/2000/svg";
  const at = (id) => document.getElementById(id);
  const on = (target, event, react) => target.addEventListener(event, react);
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

  function filled(element, { text, name, ...attributes }, children) {
    if (text !== undefined) element.textContent = text;
    if (name) element.setAttribute("class", name);
    for (const [attribute, value] of Object.entries(attributes)) element.setAttribute(attribute, value);
    element.append(...children);
    return element;
  }

  const make = (tag, content = {}, ...children) => filled(document.createElement(tag), content, children);
  const shape = (tag, content, ...children) => filled(document.createElementNS(SVG, tag), content, children);

  // ---- words ----

  const counted = (count, thing) => `${count.toLocaleString("en")} ${thing}${count === 1 ? "" : "s"}`;
  const namesOf = (item) => (about.target_names.length ? about.target_names : Object.keys(item.prediction));
  const widthOf = (item, name) => (item.low ? item.high[name] - item.low[name] : undefined);

  // Digits after the point with which there are at least so many steps in this width.
  const digitsOf = (width, steps) => Math.min(20, Math.max(0, Math.ceil(-Math.log10(width / steps))));

  // A number in few characters: a prediction with the digits to which its interval leaves a meaning, and one more.
  function inWords(value, width) {
    const size = Math.abs(value);
    if (size >= 1e15 || (size > 0 && size < 1e-6)) return value.toExponential(2);
    const most = { maximumFractionDigits: digitsOf(width, 50) };
    const plain = size >= 1e4 ? { maximumFractionDigits: 0 } : { maximumSignificantDigits: 4 };
    return value.toLocaleString("en", width > 0 ? most : plain).replace(/^-0$/, "0");
  }

  function spanInWords(low, high) {
    const digits = high > low ? digitsOf(high - low, 5) : 3;
    const format = { minimumFractionDigits: digits, maximumFractionDigits: digits };
    return `${low.toLocaleString("en", format)} to ${high.toLocaleString("en", format)}`;
  }

  function inPercent(share) {
    if (share > 0 && share < 0.001) return "<0.1 %";
    if (share < 1 && share > 0.999) return ">99.9 %";
    const digits = share < 0.1 || share > 0.99 ? 1 : 0;
    return `${(100 * share).toLocaleString("en", { maximumFractionDigits: digits })} %`;
  }

  const covering = (what) => (about.coverage === null ? what : `${Number((100 * about.coverage).toPrecision(4))} % ${what}`);

  function listed(names) {
    const more = names.length - BARS;
    return names.slice(0, BARS).join(", ") + (more > 0 ? ` and ${more.toLocaleString("en")} more` : "");
  }

  function inShort(item) {
    switch (about.kind) {
      case "number": return inWords(item.prediction, item.high - item.low);
      case "numbers":
        return listed(namesOf(item).map((name) => `${name} ${inWords(item.prediction[name], widthOf(item, name))}`));
      case "label": return String(item.prediction);
      case "labels": return listed(item.prediction) || "No label";
    }
  }

  // ---- the server ----

  async function ask(path, options) {
    const headers = { ...options.headers, ...(token && { Authorization: `Bearer ${token}` }) };
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
        : "The server asks for an access token. Please enter it.";
      askForToken();
      throw new Refusal(sentence, 401);
    }
    if (answer.ok && content !== null) return content;
    throw new Refusal(content?.detail ?? `The server answered with status ${answer.status} and nothing to show.`, answer.status);
  }

  function askForToken() {
    token = null;
    sessionStorage.removeItem(TOKEN);
    at("token-form").hidden = false;
    at("token").value = "";
    at("token").focus();
  }

  function complain(sentence, status) {
    at("alert").textContent = PASSING.includes(status) ? `${sentence} Trying again may help.` : sentence;
    at("again").hidden = !PASSING.includes(status);
  }

  const quiet = () => complain("");

  // Does some work and tells what goes wrong; work that something newer has replaced ends without a word.
  async function attempt(work, signal, retry, clean) {
    quiet();
    working.add(signal);
    at("result").setAttribute("aria-busy", "true");
    try {
      await work();
      again = null;
    } catch (error) {
      if (signal.aborted) return;
      again = retry;
      clean();
      complain(error instanceof Refusal ? error.message : "The page cannot show what the server answered.", error.status);
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
    const mib = (bytes) => `${(bytes / 2 ** 20).toLocaleString("en", { maximumFractionDigits: 2 })} MiB`;
    return `${name} is too large: it has ${mib(size)}, and the server takes at most ${mib(about.limits.max_bytes)} a picture.`;
  }

  function predict(files) {
    if (!files.length || !about) return;
    const signal = supersede();
    const alone = files.length === 1;
    const rows = files.map((file) => ({ file, item: null, error: tooLarge(file) }));
    attempt(async () => {
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
        });
        if (!alone) fillRows(rows, part);
      }
      if (alone && rows[0].error) throw new Refusal(rows[0].error);
      if (alone) own(rows);
      const answered = rows.find((row) => row.item);
      if (answered && !rows.some((row) => row.chosen)) select(answered);
    }, signal, () => predict(files), () => {
      if (!rows.some((row) => row.item)) return clear();
      const left = rows.filter((row) => !row.item && !row.error);
      for (const row of left) row.error = "It was not predicted.";
      fillRows(rows, left);
    });
  }

  function select(row) {
    explaining.abort();
    explaining = new AbortController();
    const { signal } = explaining;
    for (const other of row.rows) {
      other.chosen = other === row;
      if (other.item) other.entry?.setAttribute("aria-pressed", other.chosen);
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
    const { model, ...others } = await ask("about", { signal });
    about = { ...model, ...others };
    const { kind, target_name, target_names, run, version, pictures } = about;
    const what = kind === "numbers" ? listed(target_names) : target_name || "labels";
    at("title").textContent = `Predict ${what}`;
    document.title = `Predict ${what} – pixelfit`;
    const colours = { 1: ", grey", 3: ", colour" }[pictures.channels] ?? "";
    at("facts").textContent = `run ${run} · model ${version} · reads ${pictures.width} × ${pictures.height} pixels${colours}`;
    if (about.token_required) token ??= sessionStorage.getItem(TOKEN);
    at("token-form").hidden = !about.token_required || token !== null;
  }

  // ---- results ----

  // Takes over these pictures' addresses, and gives back those of the pictures before.
  function own(rows) {
    urls.forEach((url) => URL.revokeObjectURL(url));
    urls = rows.map((row) => Object.assign(row, { rows, url: URL.createObjectURL(row.file) }).url);
  }

  function clear() {
    own([]);
    for (const id of ["progress", "list", "shown", "details", "fine-print"]) at(id).replaceChildren();
    at("empty").hidden = false;
  }

  function picture(source, alt) {
    const image = make("img", { alt, decoding: "async" });
    const blank = make("span", { name: "blank dim small", text: alt && "This browser cannot show this kind of picture." });
    on(image, "load", () => image.classList.toggle("pixels", Math.max(image.naturalWidth, image.naturalHeight) <= SMALL));
    on(image, "error", () => image.replaceWith(blank));
    image.src = source;
    return image;
  }

  function showList(rows) {
    clear();
    own(rows);
    at("empty").hidden = true;
    at("list").replaceChildren(...rows.map((row) => (row.line = make("li"))));
    fillRows(rows, rows);
  }

  function fillRows(rows, part) {
    for (const row of part) {
      const { item, error } = row;
      row.entry = item ? make("button", { type: "button", "aria-pressed": "false" }) : make("div");
      row.entry.classList.add("entry");
      const lines = make("span", { name: "lines" }, make("span", { text: row.file.name }));
      if (error) lines.append(make("span", { name: "wrong", text: error }));
      if (item) lines.append(make("b", { text: inShort(item) }));
      if (item?.unlike) lines.append(make("span", { name: "wrong", text: "Unlike anything seen in training" }));
      row.entry.append(picture(row.url, ""), lines);
      if (item) on(row.entry, "click", () => select(row));
      row.line.replaceChildren(row.entry);
    }
    const [done, failed] = ["item", "error"].map((what) => rows.filter((row) => row[what]).length.toLocaleString("en"));
    const but = failed === "0" ? "" : `, ${failed} not`;
    at("progress").textContent = `${done} of ${counted(rows.length, "picture")} predicted${but}.`;
  }

  function showItem({ item, answer, file, url, rows }) {
    const says = make("div", { name: "says" }, make("p", { name: "dim small", text: file.name }));
    const shown = make("div", { name: "picture" }, picture(url, `Your picture ${file.name}`));
    const box = make("div", { name: "answer" }, shown, says);
    const warning = "Unlike anything seen in training: do not rely on this prediction.";
    if (item.unlike) box.prepend(make("p", { name: "note", text: warning }));
    ({ number: sayNumber, numbers: sayNumbers, label: sayLabel, labels: sayLabels })[about.kind](item, says, box);
    at("empty").hidden = true;
    if (rows.length === 1) for (const id of ["list", "progress"]) at(id).replaceChildren();
    at("shown").replaceChildren(box);
    at("details").replaceChildren(...(about.explains ? [make("p", { name: "dim", text: "Looking at what mattered." })] : []));
    showTimes(answer, null);
  }

  function showTimes({ predictions, milliseconds, model }, explanation) {
    const what = predictions.length === 1 ? "Predicted" : `${counted(predictions.length, "picture")} predicted`;
    const then = explanation ? `, explained in ${inWords(explanation.milliseconds)} ms` : "";
    at("fine-print").textContent = `${what} in ${inWords(milliseconds)} ms${then} · model ${model}`;
  }

  function sayNumber(item, says) {
    says.append(make("p", { name: "figure", text: inShort(item) }));
    if (item.low === undefined) return;
    says.append(make("p", { name: "sure", text: `${covering("interval")} ${spanInWords(item.low, item.high)}` }), scale(item));
  }

  // The value and its interval on the range of the training targets, or where that is not known on their own.
  function scale({ prediction, low, high }) {
    const [least, most] = about.range ?? [low - (high - low) / 2, high + (high - low) / 2];
    const [from, to] = [Math.min(least, low, prediction), Math.max(most, high, prediction)];
    const place = (value) => (to > from ? (100 * (value - from)) / (to - from) : 50);
    const label = `The prediction and its interval on a scale from ${inWords(from, to - from)} to ${inWords(to, to - from)}`;
    return shape("svg", { name: "scale", role: "img", "aria-label": label },
      shape("rect", { name: "track", x: 0, y: 11, width: "100%", height: 4, rx: 2 }),
      shape("rect", { name: "span", x: `${place(low)}%`, y: 6, width: `${place(high) - place(low)}%`, height: 14 }),
      shape("line", { name: "value", x1: `${place(prediction)}%`, x2: `${place(prediction)}%`, y1: 2, y2: 24 }),
      shape("text", { x: 0, y: 42, text: inWords(from, to - from) }),
      shape("text", { x: "100%", y: 42, "text-anchor": "end", text: inWords(to, to - from) }));
  }

  function sayNumbers(item, says) {
    const columns = ["target", "prediction", ...(item.low ? [covering("interval")] : [])];
    const head = columns.map((text, place) => make("th", { text, scope: "col", name: place ? "n" : "" }));
    const rows = namesOf(item).map((name) => {
      const value = make("b", { text: inWords(item.prediction[name], widthOf(item, name)) });
      const row = make("tr", {}, make("th", { text: name, scope: "row" }), make("td", { name: "n" }, value));
      if (item.low) row.append(make("td", { name: "n", text: spanInWords(item.low[name], item.high[name]) }));
      return row;
    });
    says.append(make("table", {}, make("thead", {}, make("tr", {}, ...head)), make("tbody", {}, ...rows)));
  }

  function sayLabel(item, says, box) {
    says.append(make("p", { name: "figure words", text: inShort(item) }));
    if (item.set) says.append(make("p", { name: "sure", text: `${covering("prediction set")}: ${listed(item.set)}` }));
    box.append(bars(item.probabilities, [item.prediction], "Classes and their probabilities", ""));
  }

  function sayLabels(item, says, box) {
    says.append(make("p", { name: "figure words", text: inShort(item) }));
    box.append(bars(item.probabilities, item.prediction, "Labels and the probability of each", " ✓ predicted"));
  }

  function bars(probabilities, chosen, label, mark) {
    const shown = Math.max(BARS, chosen.length);
    const lines = probabilities.slice(0, shown).map(([name, share]) => {
      const isChosen = chosen.includes(name);
      const filling = make("i");
      filling.style.width = `${100 * share}%`;
      return make("li", { name: isChosen ? "chosen" : "" },
        make("span", { name: "name", text: `${name}${isChosen ? mark : ""}` }),
        make("span", { name: "bar", "aria-hidden": "true" }, filling), make("span", { name: "share", text: inPercent(share) }));
    });
    const more = probabilities.length - shown;
    if (more > 0) lines.push(make("li", { name: "more", text: `and ${more.toLocaleString("en")} more` }));
    return make("ol", { name: "bars", "aria-label": label }, ...lines);
  }

  function showDetails({ answer, explanation }, bitmap) {
    const parts = explanation.looked_at ? [heatMap(explanation.looked_at, explanation.of, bitmap)] : [];
    const tiles = explanation.nearest.map(({ name, target, picture: source }) =>
      make("li", {}, picture(source, `Training picture ${name}, target ${target}`), make("span", { text: String(target) })));
    if (tiles.length) {
      parts.push(make("div", { name: "near" }, make("h3", { text: "Nearest training pictures" }),
        make("ul", { name: "gallery" }, ...tiles), make("p", { name: "dim small", text: "Below each is its target." })));
    }
    at("details").replaceChildren(...parts);
    showTimes(answer, explanation);
  }

  function heatMap({ rows, columns, values }, of, bitmap) {
    const small = make("canvas", { width: columns, height: rows });
    const cells = small.getContext("2d").createImageData(columns, rows);
    values.forEach((value, place) => {
      const colour = value > 0 ? [213, 94, 0] : [0, 114, 178];
      cells.data.set([...colour, Math.round(215 * Math.min(1, Math.abs(value)))], 4 * place);
    });
    small.getContext("2d").putImageData(cells, 0, 0);

    const [wide, high] = bitmap ? [bitmap.width, bitmap.height] : [columns, rows];
    const [width, height] = [wide, high].map((side) => Math.max(1, Math.round((560 * side) / Math.max(wide, high))));
    const words = whereItLooked(rows, columns, values);
    const canvas = make("canvas", { width, height, role: "img", "aria-label": `Heat map over your picture. ${words}` });
    const paint = canvas.getContext("2d");
    paint.fillStyle = "#808080";
    paint.fillRect(0, 0, width, height);
    paint.imageSmoothingEnabled = Math.max(wide, high) > SMALL;
    if (bitmap) paint.drawImage(bitmap, 0, 0, width, height);
    paint.globalCompositeOperation = "saturation"; // takes the picture's colours away, so that those of the map stand out
    paint.fillRect(0, 0, width, height);
    Object.assign(paint, { globalCompositeOperation: "source-over", imageSmoothingEnabled: true, imageSmoothingQuality: "high" });
    paint.drawImage(small, 0, 0, width, height);

    const key = ["raised", "lowered"].map((name) => make("li", {}, make("i", { name }), `${name} the prediction`));
    return make("figure", { name: "heat" }, make("h3", { text: `What the model looked at${of === "" ? "" : ` for ${of}`}` }),
      canvas, make("ul", { name: "legend" }, ...key), make("figcaption", { text: words }));
  }

  function whereItLooked(rows, columns, values) {
    const names = [["top left", "top", "top right"], ["left", "centre", "right"], ["bottom left", "bottom", "bottom right"]];
    const third = (place, count) => Math.floor((3 * (place + 0.5)) / count);
    const [least, most] = [Math.min(...values), Math.max(...values)];
    const said = [["raised", most > 0, most], ["lowered", least < 0, least]].filter(([, is]) => is).map(([verb, , value]) => {
      const place = values.indexOf(value);
      return `${verb} most at the ${names[third(Math.floor(place / columns), rows)][third(place % columns, columns)]}`;
    });
    return said.length ? `The prediction was ${said.join(", ")}.` : "No part of the picture changed the prediction.";
  }

  // ---- drawing: white on black in the canvas; turned round in its style and as it is sent ----

  const board = at("board");
  const pen = board.getContext("2d");
  let stroke = null; // the pointer that draws, and where it was last
  let isEmpty = true;
  let pause = 0;

  function setUpBoard({ width, height }) {
    const enlarged = DRAWN / Math.max(width, height);
    Object.assign(board, { width: SHARP * Math.round(width * enlarged), height: SHARP * Math.round(height * enlarged) });
    const lineWidth = Math.min(board.width, board.height) / 12; // as thick as the digits of MNIST
    Object.assign(pen, { strokeStyle: "#ffffff", fillStyle: "#000000", lineWidth, lineCap: "round", lineJoin: "round" });
    wipe();
  }

  function wipe() {
    isEmpty = true;
    pen.fillRect(0, 0, board.width, board.height);
  }

  function drawTo({ clientX, clientY }) {
    const box = board.getBoundingClientRect();
    const point = [((clientX - box.left) * board.width) / box.width, ((clientY - box.top) * board.height) / box.height];
    pen.beginPath();
    pen.moveTo(...(stroke.last ?? point));
    pen.lineTo(...point); // from a point to itself this is a dot
    pen.stroke();
    stroke.last = point;
    isEmpty = false;
  }

  on(board, "pointerdown", (event) => {
    if (stroke || event.button !== 0) return;
    clearTimeout(pause);
    board.setPointerCapture(event.pointerId);
    stroke = { pointer: event.pointerId, last: null };
    drawTo(event);
  });
  on(board, "pointermove", (event) => {
    if (stroke?.pointer !== event.pointerId) return;
    for (const each of [...(event.getCoalescedEvents?.() ?? []), event]) drawTo(each);
  });
  on(board, "lostpointercapture", (event) => {
    if (stroke?.pointer !== event.pointerId) return;
    stroke = null;
    pause = setTimeout(predictDrawing, PAUSE_MS);
  });

  function predictDrawing() {
    clearTimeout(pause);
    if (isEmpty) return complain("Nothing is drawn yet.");
    const sent = make("canvas", { width: board.width / SHARP, height: board.height / SHARP });
    const paint = sent.getContext("2d");
    Object.assign(paint, { imageSmoothingQuality: "high", fillStyle: "#ffffff" });
    paint.drawImage(board, 0, 0, sent.width, sent.height);
    paint.globalCompositeOperation = "difference"; // white less what was drawn
    if (at("dark-ink").checked) paint.fillRect(0, 0, sent.width, sent.height);
    predict([fileOf(sent, "drawing.png", "image/png")]);
  }

  // The canvas as a file; its own toBlob may wait a second for the browser to be idle.
  function fileOf(canvas, name, type) {
    const bytes = atob(canvas.toDataURL(type, 0.92).split(",")[1]);
    return new File([Uint8Array.from(bytes, (each) => each.charCodeAt(0))], name, { type });
  }

  on(at("predict"), "click", predictDrawing);
  on(at("clear"), "click", () => {
    clearTimeout(pause);
    supersede();
    wipe();
    quiet();
    clear();
  });
  on(at("dark-ink"), "change", () => {
    board.classList.toggle("turned", at("dark-ink").checked);
    if (!isEmpty) predictDrawing();
  });

  // ---- the camera ----

  const video = at("video");
  const chosenWay = () => document.querySelector("input[name=way]:checked").value;

  async function startCamera() {
    try {
      at("camera-note").textContent = "Waiting for the camera.";
      const stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
      stopCamera(); // the one of an earlier asking
      video.srcObject = stream;
      if (chosenWay() !== "camera") return stopCamera(); // left while the browser was asking
      await video.play();
      at("camera-note").textContent = "";
      at("camera").hidden = false;
    } catch {
      stopCamera();
      at("camera-note").textContent = navigator.mediaDevices ? "There is no camera that this page may use."
        : "Browsers let a page use the camera only over https, or on the machine of the server itself.";
    }
  }

  function stopCamera() {
    video.srcObject?.getTracks().forEach((track) => track.stop());
    video.srcObject = null;
    at("camera").hidden = true;
  }

  on(at("shoot"), "click", () => {
    const photo = make("canvas", { width: video.videoWidth, height: video.videoHeight });
    photo.getContext("2d").drawImage(video, 0, 0);
    predict([fileOf(photo, "photo.jpg", "image/jpeg")]);
  });

  // ---- the rest of the input ----

  function showWay() {
    for (const way of ["file", "draw", "camera"]) at(`way-${way}`).hidden = way !== chosenWay();
    stopCamera();
    if (chosenWay() === "camera") startCamera();
  }

  for (const way of document.querySelectorAll("input[name=way]")) on(way, "change", showWay);
  on(at("files"), "change", () => {
    predict([...at("files").files]);
    at("files").value = ""; // the same file can be chosen again
  });
  on(document, "paste", (event) => predict([...event.clipboardData.files]));
  on(document, "dragover", (event) => {
    if (!event.dataTransfer.types.includes("Files")) return;
    event.preventDefault();
    document.body.classList.add("over");
  });
  on(document, "dragleave", (event) => {
    if (!event.relatedTarget) document.body.classList.remove("over"); // out of the window
  });
  on(document, "drop", (event) => {
    document.body.classList.remove("over");
    if (event.dataTransfer.files.length) event.preventDefault();
    predict([...event.dataTransfer.files]);
  });
  on(at("again"), "click", () => again?.());
  on(at("token-form"), "submit", (event) => {
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
      const isDrawn = about.pictures.channels === 1 && Math.max(about.pictures.width, about.pictures.height) <= 64;
      document.querySelector(`input[value=${isDrawn ? "draw" : "file"}]`).checked = true;
      showWay();
    }, sending.signal, start, () => {});
  }

  start();
})();
