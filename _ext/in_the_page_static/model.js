// The panel of the chapter on a real model: a sentence, its tokens, 72 heads, one of them large.
// Nothing is fetched before the reader presses “Load the model”. The arithmetic is Python's
// (look_inside.py); this file only draws. It needs bookPython, of python.js.
"use strict";
(() => {
  const { model: file, bytes } = document.currentScript.dataset; // the weights, and their size
  const place = document.querySelector(".real-model");
  if (!place || !window.bookPython) return;
  const EXAMPLES = ["The bank was flooded.", "Water covered the shore."];
  const COLOURS = ["#FFFFFF", "#EBC3DC", "#C9659F", "#8F2A6B", "#3F0A2E"]; // plot.WEIGHTS_MAP
  const LEAST = 0.05; // a smaller weight gets no line
  const SVG = "http://www.w3.org/2000/svg";

  const reason = file ? bookPython.available() : "This copy of the book was built without the model.";
  if (reason) {
    const note = place.querySelector("p").cloneNode();
    note.textContent = reason;
    place.append(note);
    return;
  }

  // --- small pieces --------------------------------------------------------------------------

  const make = (tag, properties = {}, ...children) => {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(properties)) {
      if (name in node) node[name] = value;
      else node.setAttribute(name, value);
    }
    node.append(...children);
    return node;
  };
  const draw = (parent, tag, attributes, text = "") => {
    const node = document.createElementNS(SVG, tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    node.textContent = text;
    return parent.appendChild(node);
  };
  const mega = (count) => (count / 1e6).toFixed(1);
  const stops = COLOURS.map((c) => [1, 3, 5].map((at) => parseInt(c.slice(at, at + 2), 16)));
  const colour = (weight) => {
    const at = Math.min(Math.max(weight, 0), 1) * (stops.length - 1);
    const low = Math.min(Math.floor(at), stops.length - 2);
    return stops[low].map((c, k) => Math.round(c + (at - low) * (stops[low + 1][k] - c)));
  };
  const rgb = (weight) => `rgb(${colour(weight)})`;

  // --- what the reader sees ------------------------------------------------------------------

  const field = (id, label, value) => {
    const input = make("input", { id, type: "text", value, maxLength: 300, autocomplete: "off" });
    return [input, make("p", {}, make("label", { htmlFor: id, textContent: label }), input)];
  };
  const [text, textField] = field("real-model-text", "Sentence", EXAMPLES[0]);
  const [other, otherField] = field("real-model-other", "Another, to compare", EXAMPLES[1]);
  const load = make("button", { type: "submit", textContent: "Load the model" });
  const note = make("span", { textContent: `Python, 17 MB, and the weights, ${mega(bytes)} MB` });
  const bar = make("progress", { hidden: true, "aria-label": "Loaded" });
  const status = make("p", { role: "status" });
  const form = make("form", {}, textField, otherField, make("p", {}, load, " ", note, bar));
  const tokensShown = make("ol", { className: "real-model-tokens", "aria-label": "Tokens" });
  const likeness = make("p", { className: "real-model-likeness" });
  const which = make("p", { textContent: "Tokens and heads below are those of the first sentence." });
  const hint = make("p", { id: "real-model-hint" });
  hint.textContent = "Choose a head: click, or use the arrow keys. Layers are rows, heads are columns.";
  const grid = make("div", { className: "real-model-grid", role: "radiogroup" });
  grid.setAttribute("aria-label", "72 heads: layers 0 to 5 from top, heads 0 to 11 from left");
  grid.setAttribute("aria-describedby", hint.id);
  const title = make("p", { className: "real-model-title" });
  const query = make("select", { id: "real-model-query" });
  const asked = make("label", { htmlFor: query.id, textContent: "Query" });
  const spoken = make("p", { className: "real-model-spoken", "aria-live": "polite" });
  const pictures = make("div", { className: "real-model-pictures" });
  const key = make("p", { className: "real-model-key" });
  key.textContent = `Map: rows are queries, columns keys. Lines: the weights of at least ${LEAST}; the wider, the larger.`;
  const results = make("div", { hidden: true }, likeness, which, tokensShown, hint, grid);
  results.append(title, make("p", {}, asked, " ", query), spoken, pictures, key);
  place.replaceChildren(form, status, results);
  place.setAttribute("role", "region");
  place.setAttribute("aria-label", "Type your own sentence");

  const heads = [];
  let shown = null; // {tokens, weights, similarity}
  let chosen = [0, 2];
  const number = (text) => make("span", { "aria-hidden": "true", textContent: text });
  grid.append(number(""), ...Array.from({ length: 12 }, (_, head) => number(head)));
  for (let layer = 0; layer < 6; layer++) {
    grid.append(number(layer));
    for (let head = 0; head < 12; head++) {
      const name = `Layer ${layer}, head ${head}`;
      const button = make("button", { type: "button", role: "radio", title: name });
      button.setAttribute("aria-label", name);
      button.append(make("canvas", { "aria-hidden": "true" }));
      button.addEventListener("click", () => choose(layer, head));
      button.addEventListener("keydown", (event) => move(event, layer, head));
      heads.push(button);
      grid.append(button);
    }
  }

  const STEPS = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
  function move(event, layer, head) {
    const step = STEPS[event.key];
    if (!step) return;
    event.preventDefault();
    choose((layer + step[0] + 6) % 6, (head + step[1] + 12) % 12);
    heads[chosen[0] * 12 + chosen[1]].focus();
  }

  function choose(layer, head) {
    chosen = [layer, head];
    heads.forEach((button, place) => {
      const is = place === layer * 12 + head;
      button.setAttribute("aria-checked", is);
      button.tabIndex = is ? 0 : -1;
    });
    showHead();
  }

  // --- drawing -------------------------------------------------------------------------------

  function showAll(isNew) {
    const { tokens, weights, similarity } = shown;
    results.hidden = false;
    which.hidden = similarity === null;
    likeness.textContent =
      similarity === null ? "" : `Similarity of the two sentences: ${similarity.toFixed(2)}`;
    tokensShown.replaceChildren(...tokens.map((token) => make("li", { textContent: token })));
    heads.forEach((button, place) => paint(button.firstChild, weights[Math.floor(place / 12)][place % 12]));
    const kept = isNew ? "" : query.value; // a query belongs to its sentence
    query.replaceChildren(make("option", { value: "", textContent: "all tokens" }));
    tokens.forEach((token, i) => query.append(make("option", { value: i, textContent: `${i} ${token}` })));
    query.value = kept;
    choose(...chosen);
  }

  function paint(canvas, table) {
    const n = table.length;
    canvas.width = canvas.height = n;
    const pixels = new ImageData(n, n);
    table.flat().forEach((weight, place) => pixels.data.set([...colour(weight), 255], 4 * place));
    canvas.getContext("2d").putImageData(pixels, 0, 0);
  }

  function showHead() {
    const [layer, head] = chosen;
    const { tokens, weights } = shown;
    const table = weights[layer][head];
    title.textContent = `Layer ${layer}, head ${head}`;
    const row = query.value === "" ? null : Number(query.value);
    spoken.textContent = row === null ? "" : sentence(tokens, table[row], row);
    pictures.replaceChildren(heatMap(tokens, table, row), lines(tokens, table, row));
    pictures.dataset.weights = JSON.stringify(table);
  }

  function sentence(tokens, weights, row) {
    const ranked = weights.map((weight, j) => [weight, j]).sort((a, b) => b[0] - a[0]);
    const most = ranked.slice(0, 5).map(([weight, j]) => `“${tokens[j]}” ${weight.toFixed(2)}`);
    return `“${tokens[row]}” looks at: ${most.join(", ")}${tokens.length > 5 ? ", …" : ""}`;
  }

  const picture = (width, height, label) => {
    const svg = document.createElementNS(SVG, "svg");
    for (const [name, value] of Object.entries({ viewBox: `0 0 ${width} ${height}`, role: "img" })) {
      svg.setAttribute(name, value);
    }
    svg.setAttribute("aria-label", label);
    return svg;
  };

  function heatMap(tokens, table, row) {
    const n = tokens.length;
    const long = 7.5 * Math.max(...tokens.map((token) => token.length)) + 8;
    const cell = Math.max(16, Math.min(34, 340 / n));
    const side = long + cell * n;
    const margin = 18; // for the names of the axes
    const label = `Heat map of ${title.textContent}: queries are rows, keys are columns`;
    const svg = picture(side + margin + 4, side + margin + 4, label);
    svg.setAttribute("viewBox", `${-margin} ${-margin} ${side + margin + 4} ${side + margin + 4}`);
    const half = long + (cell * n) / 2;
    draw(svg, "text", { x: half, y: -margin / 2, class: "axis" }, "key");
    const upright = `translate(${-margin / 2} ${half}) rotate(-90)`;
    draw(svg, "text", { transform: upright, class: "axis" }, "query");
    tokens.forEach((token, i) => {
      const middle = long + cell * (i + 0.5) + 4;
      draw(svg, "text", { x: long - 4, y: middle, class: "right" }, token);
      const turned = `translate(${middle} ${long - 4}) rotate(-90)`;
      draw(svg, "text", { transform: turned }, token);
      table[i].forEach((weight, j) => {
        const at = { x: long + cell * j, y: long + cell * i, width: cell, height: cell };
        const box = draw(svg, "rect", { ...at, fill: rgb(weight) });
        draw(box, "title", {}, `${token} → ${tokens[j]}: ${weight.toFixed(2)}`);
      });
    });
    draw(svg, "rect", { x: long, y: long, width: cell * n, height: cell * n, class: "frame" });
    if (row !== null) {
      draw(svg, "rect", { x: long, y: long + cell * row, width: cell * n, height: cell, class: "row" });
    }
    return svg;
  }

  function lines(tokens, table, row) {
    const long = 7.5 * Math.max(...tokens.map((token) => token.length)) + 8;
    const step = 24;
    const [left, right] = [long, long + 120];
    const label = `${title.textContent} as lines from queries, left, to keys, right`;
    const svg = picture(right + long, step * (tokens.length + 1) + 8, label);
    const height = (i) => step * (i + 1.5) + 4;
    draw(svg, "text", { x: left - 4, y: height(-1), class: "axis right" }, "query");
    draw(svg, "text", { x: right + 4, y: height(-1), class: "axis left" }, "key");
    table.forEach((weights, i) => {
      if (row !== null && row !== i) return;
      weights.forEach((weight, j) => {
        if (weight < LEAST) return;
        const ends = { x1: left, y1: height(i), x2: right, y2: height(j) };
        draw(svg, "line", { ...ends, "stroke-width": 5 * weight, "stroke-opacity": 0.25 + 0.75 * weight });
      });
    });
    tokens.forEach((token, i) => {
      draw(svg, "text", { x: left - 4, y: height(i), class: "right" }, token);
      draw(svg, "text", { x: right + 4, y: height(i) }, token);
    });
    return svg;
  }

  // --- Python --------------------------------------------------------------------------------

  let loaded = false;
  let asking = Promise.resolve();
  let wanted = 0;

  const onProgress = ({ what, loaded: have, total }) => {
    bar.hidden = false;
    if (total) Object.assign(bar, { max: total, value: Math.min(have, total) });
    else bar.removeAttribute("value");
    status.textContent = `${what}: ${mega(have)}${total ? ` of ${mega(total)}` : ""} MB`;
  };

  async function loadModel() {
    load.disabled = true;
    try {
      await bookPython.start(onProgress);
      await bookPython.file(file, "minilm.npz", onProgress);
      loaded = true;
      load.textContent = "Look inside";
      note.hidden = true;
    } finally {
      load.disabled = false;
      bar.hidden = true;
    }
  }

  async function look(number) {
    if (number !== wanted) return; // the reader went on typing
    if (!text.value.trim()) {
      status.textContent = "Type a sentence.";
      return;
    }
    try {
      if (!loaded) await loadModel();
      status.textContent = "Computing …";
      const result = await bookPython.call("look_inside", "look", [text.value, other.value]);
      if (result.problem) {
        status.textContent = result.problem;
        return;
      }
      const isNew = shown?.tokens.join(" ") !== result.tokens.join(" ");
      shown = result;
      showAll(isNew);
      status.textContent = `${result.tokens.length} tokens, 72 heads.`;
    } catch (error) {
      forget();
      const stopped = error.name === "Stopped" || error.message.includes("not loaded yet");
      status.textContent = stopped ? "Python was ended. Load the model again." : error.message;
    }
  }

  function forget() {
    loaded = false;
    load.textContent = "Load the model";
    note.hidden = false;
  }

  const ask = () => {
    const number = ++wanted;
    asking = asking.then(() => look(number));
  };
  let timer = 0;
  const later = () => {
    clearTimeout(timer);
    if (loaded) timer = setTimeout(ask, 500);
  };
  text.addEventListener("input", later);
  other.addEventListener("input", later);
  query.addEventListener("change", showHead);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    clearTimeout(timer);
    ask();
  });
})();
