// Run, edit and reset the cells of a page. What runs, and where the manual is, stands in the page
// as JSON (_ext/in_the_page.py); python.js runs it. Nothing is fetched before a cell is run.
"use strict";
(() => {
  const page = JSON.parse(document.querySelector("script.page-cells").textContent);
  const unavailable = bookPython.available();

  const make = (tag, properties = {}, ...children) => {
    const node = Object.assign(document.createElement(tag), properties);
    node.append(...children);
    return node;
  };
  const megabytes = (bytes) => (bytes / 1e6).toFixed(1);
  const manual = () =>
    page.manual ? make("a", { href: page.manual, textContent: "How to run the notebook" }) : "";

  // --- what a run shows --------------------------------------------------------------------

  const printed = (text, kind = "stream") =>
    make(
      "div",
      { className: `output ${kind} highlight-myst-ansi notranslate` },
      make("div", { className: "highlight" }, make("pre", { textContent: text })),
    );

  // The pictures of a run take the places of the printed ones, and keep their captions.
  function picture(data, place, isEdited) {
    const image = make("img", { src: `data:image/png;base64,${data}` });
    const before = place?.querySelector("img")?.alt ?? "";
    image.alt = isEdited || !before ? "The figure that your code drew" : before;
    if (!place) return image;
    const figure = place.cloneNode(true);
    figure.removeAttribute("id");
    figure.querySelector("img").replaceWith(image);
    figure.querySelector(".headerlink")?.remove();
    return figure;
  }

  function drawn({ outputs, error }, stored, isEdited) {
    const places = [...(stored?.querySelectorAll("figure:has(> img), :not(figure) > img") ?? [])];
    const nodes = outputs.map((output) => {
      if (output.type === "png") {
        const place = places.shift();
        return picture(output.data, place?.matches("figure") ? place : null, isEdited);
      }
      if (output.type === "html") {
        const fragment = document.createRange().createContextualFragment(output.html);
        return make("div", { className: "output text_html" }, fragment); // scripts in it run
      }
      return printed(output.text, output.type === "stderr" ? "stderr" : "stream");
    });
    return error ? [...nodes, printed(error.traceback, "traceback")] : nodes;
  }

  // --- one cell ----------------------------------------------------------------------------

  class Cell {
    constructor(number, { why, preamble, code }) {
      this.number = number;
      this.why = why;
      this.preamble = preamble; // what the page takes of a cell that it cannot run
      this.box = document.querySelector(`.cell.in-page-${number}`);
      this.input = this.box?.querySelector(".cell_input");
      this.printed = this.input?.querySelector("pre");
      this.original = code ?? this.printed.textContent.replace(/\n$/, "");
      this.stored = this.box?.querySelector(".cell_output");
      this.area = null; // while it is edited
    }

    get code() {
      return this.area ? this.area.value : this.original;
    }

    // What is run: an exercise asks for more than its code.
    get program() {
      return this.code;
    }

    get isEdited() {
      return this.code !== this.original;
    }

    get name() {
      return `cell above: ${this.code.split("\n").find((line) => line.trim()) ?? ""}`;
    }

    explain() {
      this.input.append(make("p", { className: "in-page-why" }, `${this.why} `, manual()));
    }

    offer() {
      const button = (text, title, action) => {
        const made = make("button", { type: "button", textContent: text, title });
        made.setAttribute("aria-label", `${text}, cell ${this.number + 1}`);
        made.addEventListener("click", action);
        return made;
      };
      this.run = button("Run", "Run this cell here, in your browser", () => runOne(this));
      this.above = button("Run all above", "Run every cell above, then this one", () => runAll(this));
      this.edit = button("Edit", "Change the code of this cell", () => this.open());
      this.reset = button("Reset", "Back to what is printed in the book", () => this.restore());
      this.stop = button("Stop", "Stop Python", () => bookPython.stop());
      this.above.hidden = this.reset.hidden = this.stop.hidden = true;
      this.status = make("span", { className: "in-page-status" });
      this.status.setAttribute("role", "status");
      this.bytes = make("span", { className: "in-page-bytes", hidden: true });
      const controls = [this.run, this.above, this.edit, this.reset, this.stop];
      this.input.append(make("div", { className: "in-page-bar" }, this.status, this.bytes, ...controls));
      this.live = make("div", { className: "cell_output docutils container in-page-live", hidden: true });
      this.live.setAttribute("role", "region");
      this.live.setAttribute("aria-label", `Output of your run of cell ${this.number + 1}`);
      if (this.stored) this.stored.after(this.live);
      else (this.input.closest("details") ?? this.input).after(this.live);
    }

    busy(text) {
      this.say(text);
      this.above.hidden = false;
      this.stop.hidden = false;
      this.run.hidden = true;
    }

    idle(text) {
      this.say(text);
      this.stop.hidden = true;
      this.run.hidden = false;
    }

    say(text) {
      this.status.textContent = text;
      this.bytes.hidden = true;
    }

    progress({ what, loaded, total }) {
      // What is read aloud changes with the step only, not with each byte.
      const step = loaded < total ? `${what} …` : "Starting Python …";
      if (this.status.textContent !== step) this.say(step);
      this.bytes.hidden = loaded >= total;
      this.bytes.textContent = `${megabytes(loaded)} of ${megabytes(total)} MB`;
    }

    show(result) {
      this.live.replaceChildren(...drawn(result, this.stored, this.isEdited));
      this.live.hidden = this.live.childElementCount === 0;
      if (this.stored) this.stored.hidden = true;
      this.reset.hidden = false;
    }

    // editing

    open() {
      this.writeIn(`Code of cell ${this.number + 1}. Shift and Enter run it`);
      this.printed.closest(".highlight").after(this.area);
      this.printed.closest(".highlight").hidden = true;
      this.edit.hidden = true;
      this.reset.hidden = false;
      this.fit();
      this.area.setSelectionRange(0, 0); // on a phone the end of a line hides its beginning
      this.area.focus();
    }

    writeIn(label) {
      this.area = make("textarea", { className: "in-page-code", value: this.original });
      this.area.spellcheck = false;
      this.area.setAttribute("autocapitalize", "off");
      this.area.setAttribute("autocomplete", "off");
      this.area.setAttribute("aria-label", `${label}, Tab indents, Escape leaves.`);
      this.area.addEventListener("input", () => this.fit());
      this.area.addEventListener("keydown", (event) => this.key(event));
    }

    fit() {
      this.area.rows = this.area.value.split("\n").length;
    }

    key(event) {
      const { area } = this;
      const start = area.value.lastIndexOf("\n", area.selectionStart - 1) + 1;
      const line = area.value.slice(start, area.selectionStart);
      if (event.key === "Enter" && (event.shiftKey || event.ctrlKey || event.metaKey)) {
        runOne(this);
      } else if (event.key === "Enter" && !event.isComposing) {
        const deeper = /[:([{]\s*(#.*)?$/.test(line) ? "    " : "";
        const back = /^\s+(return|pass|break|continue|raise)\b/.test(line) ? 4 : 0;
        this.type(`\n${line.match(/^ */)[0].slice(back)}${deeper}`);
      } else if (event.key === "Tab" && !event.altKey && !event.ctrlKey && !event.metaKey) {
        this.indent(event.shiftKey);
      } else if (event.key === "Escape") {
        (this.run.hidden ? this.stop : this.run).focus();
      } else {
        return;
      }
      event.preventDefault();
    }

    // Four columns more or fewer for every line that the selection touches.
    indent(less) {
      const { area } = this;
      const { selectionStart: from, selectionEnd: to, value } = area;
      const start = value.lastIndexOf("\n", from - 1) + 1;
      if (!less && from === to) {
        this.type(" ".repeat(4 - ((from - start) % 4)));
        return;
      }
      const end = value.indexOf("\n", to - (to > from && value[to - 1] === "\n"));
      const lines = value.slice(start, end < 0 ? value.length : end);
      const moved = lines.replace(less ? /^ {1,4}/gm : /^(?=.)/gm, less ? "" : "    ");
      if (moved === lines) return;
      area.setSelectionRange(start, start + lines.length);
      this.type(moved);
      const caret = Math.max(start, from + moved.length - lines.length);
      if (from === to) area.setSelectionRange(caret, caret);
      else area.setSelectionRange(start, start + moved.length);
    }

    type(text) {
      // The one way to insert that keeps the browser's undo; an empty text needs the other command.
      document.execCommand(text ? "insertText" : "delete", false, text);
    }

    restore() {
      if (this.area) {
        this.area.remove();
        this.area = null;
        this.printed.closest(".highlight").hidden = false;
      }
      this.live.replaceChildren();
      this.live.hidden = true;
      if (this.stored) this.stored.hidden = false;
      this.edit.hidden = false;
      this.reset.hidden = this.above.hidden = true;
      this.say("");
      this.edit.focus();
    }
  }

  // --- an exercise that asks for an attention in NumPy ---------------------------------------

  // Its text says how the answer is marked, `attn_core.diagnose(attend, …, backend="numpy")`; the
  // same call marks what the reader writes here.
  class Exercise extends Cell {
    constructor(number, call, solution) {
      super(number, { code: `def ${call.match(/\((\w+)/)[1]}(query, key, value):\n    ...` });
      this.call = call;
      this.input = make("div", { className: "cell_input docutils container" });
      this.box = make("div", { className: "cell docutils container in-page-exercise" }, this.input);
      this.stored = null;
      solution.before(this.box);
      this.writeIn("Your answer to this exercise. Shift and Enter check it");
      this.input.append(this.area);
      this.fit();
      this.offer();
      this.edit.remove();
      this.run.textContent = "Check";
      this.run.title = "Let attn_core.diagnose mark your function, in your browser";
      this.run.setAttribute("aria-label", "Check your answer");
      this.reset.setAttribute("aria-label", "Reset your answer");
    }

    get program() {
      return `${this.code}\n\nimport attn_core\nprint(${this.call})`;
    }

    busy(text) {
      super.busy(text);
      this.above.hidden = true; // there is nothing to read in the cells above
    }

    restore() {
      this.area.value = this.original;
      this.fit();
      this.live.hidden = this.reset.hidden = true;
      this.say("");
      this.area.focus();
    }
  }

  const isAfter = (node, other) =>
    other.compareDocumentPosition(node) & Node.DOCUMENT_POSITION_FOLLOWING;

  function offerExercises() {
    for (const code of document.querySelectorAll("section > p > code")) {
      const call = code.textContent;
      if (!/^attn_core\.diagnose\(\w+, (.+, )?backend="numpy".*\)$/.test(call)) continue;
      const solution = code.closest("section").querySelector("details.sd-dropdown");
      const next = shown.find((cell) => isAfter(cell.box, code));
      if (solution) new Exercise(next ? next.number : cells.length, call, solution);
    }
  }

  const cells = page.cells.map((cell, number) => new Cell(number, cell));
  const shown = cells.filter((cell) => cell.input);

  // --- running -----------------------------------------------------------------------------

  let running = null; // the cell whose control was pressed

  async function attempt(cell, work) {
    if (running) return;
    running = cell;
    cell.busy("Starting Python …");
    try {
      await bookPython.start((progress) => cell.progress(progress), { figures: true });
      cell.idle(await work());
    } catch (error) {
      const stopped = error.name === "Stopped";
      cell.idle(stopped ? "Stopped. The next run starts Python again." : `Python failed: ${error.message}`);
    } finally {
      running = null;
      if (document.activeElement === document.body) cell.run.focus(); // Stop has gone
    }
  }

  const said = ({ error, seconds }, what) =>
    error ? "Ended with an error." : `Ran in ${seconds.toFixed(seconds < 1 ? 2 : 1)} s${what}.`;

  // A cell always runs in a new namespace, after those cells above that it needs.
  function runOne(cell) {
    return attempt(cell, async () => {
      cell.busy("Running …");
      const above = cells.slice(0, cell.number);
      const codes = above.map((other) => (other.why ? other.preamble : other.code));
      const sources = [...codes, cell.program];
      const needed = await bookPython.call("page_cells", "needed", [sources, cell.number]);
      const before = needed.map((number) => codes[number]);
      const names = [...needed.map((number) => cells[number].name), "this cell"];
      const result = await bookPython.run(cell.program, { before, names, folder: page.folder });
      cell.show(result);
      const count = needed.filter((number) => !cells[number].why).length;
      return said(result, count ? `, with ${count} ${count > 1 ? "cells" : "cell"} above` : "");
    });
  }

  function runAll(last) {
    return attempt(last, async () => {
      let goesOn = false;
      let result;
      const wanted = cells.filter((cell) => (cell.preamble ?? true) && cell.number <= last.number);
      for (const [index, cell] of wanted.entries()) {
        last.busy(`Running cell ${index + 1} of ${wanted.length} …`);
        const code = cell.why ? cell.preamble : cell.code;
        result = await bookPython.run(code, { goesOn, folder: page.folder });
        if (cell.input && !cell.why) cell.show(result);
        if (result.error && cell !== last) return "A cell above ended with an error.";
        goesOn = true;
      }
      return said(result, `, after all cells above`);
    });
  }

  // --- the page ----------------------------------------------------------------------------

  const runnable = shown.filter((cell) => !cell.why);
  const note = make("p", { className: "in-page-note" });
  if (runnable.length === 0) {
    note.append("The code of this page does not run in a browser: it needs PyTorch. ", manual());
  } else if (unavailable) {
    note.append(unavailable);
  } else {
    note.append(
      `${runnable.length} of the ${shown.length} cells of this page run here, in your browser: ` +
        "press Run below one. The first run loads 25 MB from this site.",
    );
    for (const cell of shown) (cell.why ? cell.explain() : cell.offer());
    offerExercises();
  }
  shown[0]?.box.before(note);
})();
